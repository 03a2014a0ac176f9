"""Takes away one guard after the other, and demands that the unit tests notice each.

`python -m tests.mutants.guards`, part of `make mutants`. A guard is an authorisation check, a
masking or an expiry comparison; taking it away is one edit of a copy of the source. That each
text is still found in the source, exactly once, is a test of `make test`.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from tests.mutants.laboratory import PACKAGES, are_green, copy_to

type Edit = tuple[str, str]

_CALLERS: Final = ("callers.py", ("layer/test_callers.py",))
_EXPIRY: Final = ("expiry.py", ("layer/test_expiry.py", "test_properties.py"))
_MODELS: Final = ("models.py", ("layer/test_models.py", "refresher/enable/test_models.py"))
_VEND: Final = ("vend.py", ("vendor/test_vend.py",))
_EVENT: Final = ("api_event.py", ("vendor/test_api_event.py", "vendor/test_app.py"))
_POLICY: Final = ("policy.py", ("refresher/test_renewal.py", "test_properties.py"))
_ENABLE_MODELS: Final = (
    "token_refresher/enable/models.py",
    ("refresher/enable/test_models.py", "layer/test_models.py"),
)
_ACCEPTANCE: Final = (
    "token_refresher/enable/acceptance.py",
    ("refresher/enable/test_acceptance.py", "test_properties.py"),
)
_HTTP_CLIENT: Final = (
    "token_refresher/enable/http_client.py",
    ("refresher/enable/test_http_client.py",),
)
_RESPONSES: Final = ("token_refresher/enable/responses.py", ("refresher/enable/test_responses.py",))
_HIDDEN: Final = "field(repr=False)"
_SHOWN: Final = "field()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What is taken away.

    Attributes:
        file: of one of the packages; a bare name where there is only one of that name.
        tests: those that must turn red.
        text: what stands there, exactly once.
        instead: what is put there.
    """

    file: str
    tests: tuple[str, ...]
    text: str
    instead: str


def _of(place: tuple[str, tuple[str, ...]], *edits: Edit) -> list[Guard]:
    file, tests = place
    return [Guard(file=file, tests=tests, text=text, instead=instead) for text, instead in edits]


AUTHORISATION: Final = [
    *_of(
        _CALLERS,
        ("return re.fullmatch(expression", "return re.match(expression"),
        ('"*": "[^:]*"', '"*": ".*"'),
        ('"?": "[^:]"', '"?": "."'),
        ("re.escape(char)", "char"),
        ("_ASSUMED_ROLE.fullmatch(", "_ASSUMED_ROLE.match("),
        ("_PATTERN.fullmatch(", "_PATTERN.match("),
        (r"iam::(?P<account>[0-9]{12})", r"iam::(?P<account>[0-9*]+)"),
    ),
    *_of(
        _EVENT,
        ("if not isinstance(arn, str) or not arn:", "if not isinstance(arn, str):"),
        ('if not path.endswith(f"/tokens/{name}{suffix}"):', "if False:"),
        ("if len(values) != 1 or not values[0]:", "if not values[0]:"),
        ('if grant_type != "client_credentials":', "if False:"),
    ),
    *_of(
        _VEND,
        ("if grant is None:", "if False:"),
        ("if grant.callers is None or is_allowed(caller_arn, grant.callers):", "if True:"),
        ('if grant.mode == "audit":', "if True:"),
        ("        raise CallerNotAllowed\n", "        return False\n"),
        ("if grant.callers is None or set(grant.scope) != scope:", "if grant.callers is None:"),
        ("            if is_allowed(caller_arn, grant.callers):", "            if True:"),
        ("if not set(stored.scope) <= set(scope):", "if False:"),
        ('return grant.callers is None or grant.mode == "audit" or is_allowed', "return bool"),
        (
            "        self._admit(request.grant, request.caller_arn)\n        known =",
            "        known =",
        ),
        (
            "is_only_audited = self._admit(request.grant, request.caller_arn)",
            "is_only_audited = False",
        ),
        ("            return Unfit(Reason.BLOCKED)", "            return Unfit(Reason.MISSING)"),
    ),
    *_of(
        _MODELS,
        ("if (reason := _block_reason(text)) is not None:", "if reason := None:"),
        ("_VISIBLE_ASCII.fullmatch(", "_VISIBLE_ASCII.match("),
    ),
    *_of(_ENABLE_MODELS, ('if self.token_type.lower() != "bearer":', "if False:")),
    *_of(_ACCEPTANCE, ("    if granted != set(scope):", "    if False:")),
    *_of(
        ("due_grant.py", ("refresher/test_refresh.py",)),
        ("if set(token.scope) != set(grant.scope):", "if False:"),
    ),
    *_of(
        _HTTP_CLIENT,
        ("retries=False,\n        redirect=False,", "retries=3,"),
        ("retries=False,\n", "retries=3,\n"),
        ('"Connection": "close"', ""),
    ),
    *_of(
        ("token_refresher/enable/connections.py", ("refresher/enable/test_http_client.py",)),
        ("if not 100 <= line[1] < 200 or", "if line[1] != 100 or"),
    ),
    *_of(
        ("grants.py", ("layer/test_grants.py", "refresher/test_check_grants.py")),
        ("http://(127", "http://([a-z.]+|127"),
        ("if not _NAME.fullmatch(name):", "if False:"),
        ("if self.callers is not None and not self.callers:", "if False:"),
        ("            if fault := pattern_fault(pattern):", "            if fault := None:"),
    ),
    *_of(
        ("enable_broker_client/api.py", ("client/test_api.py",)),
        ('if parts.scheme != "https" and not (', "if False and not ("),
    ),
    *_of(
        ("enable_broker_client/origins.py", ("client/test_origins.py", "client/test_requests.py")),
        ("is_included = origin == self._origin", "is_included = True"),
        ('is_included = origin[0] == "https" or (', "is_included = True or ("),
        ("return origin_of(url) in self._accepting and route not in", "return route not in"),
    ),
]

MASKING: Final = [
    *_of(
        _ENABLE_MODELS,
        (f"client_secret: str = {_HIDDEN}", f"client_secret: str = {_SHOWN}"),
        (f"access_token: str = {_HIDDEN}", f"access_token: str = {_SHOWN}"),
        (
            "error_description: object = field(default=None, repr=False)",
            "error_description: object = None",
        ),
        ("error_uri: object = field(default=None, repr=False)", "error_uri: object = None"),
    ),
    *_of(
        _MODELS,
        (
            f"class StoredToken:*access_token: str = {_HIDDEN}",
            f"class StoredToken:*access_token: str = {_SHOWN}",
        ),
        ("return hashlib.sha256(token.encode()).hexdigest()[:12]", "return token"),
        ("return value if _VERSION_ID.fullmatch(value) else", "return value if True else"),
    ),
    *_of(
        ("credentials.py", ("refresher/test_credentials.py",)),
        (f"client_secret: str = {_HIDDEN}", f"client_secret: str = {_SHOWN}"),
    ),
    *_of(
        ("aws.py", ("layer/test_errors.py",)),
        ('f"{error.operation_name} was refused by AWS: {code}"', "str(error)"),
        ('f"AWS could not be reached or did not answer: {kind}"', "str(error)"),
        ('f"unexpected {type(error).__name__}; please report it"', "str(error)"),
    ),
    *_of(
        ("token_refresher/enable/validation.py", ("refresher/enable/test_validation.py",)),
        ('"not valid JSON" if kind == "json_invalid" else message', "message"),
        (
            "        faults = fault_texts(error)\n",
            '        raise ValueError("; ".join(fault_texts(error)))\n',
        ),
    ),
    *_of(
        _RESPONSES,
        ('with an unregistered error code", "unknown_error"', 'with an unregistered code", code'),
        ("            fault = str(error)", "            fault = str(response.body)"),
    ),
    *_of(
        _HTTP_CLIENT,
        (
            "                fault = _kind(error)\n",
            "                raise NoResponse(_kind(error))\n",
        ),
        ('logging.getLogger("urllib3.connection").setLevel(logging.CRITICAL)', ""),
    ),
    *_of(
        ("connection_state.py", ("refresher/test_connection_state.py",)),
        ("_WORD.fullmatch(reason) and", "reason is not None and"),
    ),
    *_of(
        ("token_vendor/app.py", ("vendor/test_app.py",)),
        ('description = "the token cannot be read now"', "description = record.cause"),
    ),
    *_of(
        ("token_vendor/responses.py", ("layer/test_models.py",)),
        (f"access_token: str = {_HIDDEN}", f"access_token: str = {_SHOWN}"),
    ),
    *_of(
        ("token_vendor/audit_record.py", ("vendor/test_audit_record.py",)),
        ("self.grant[:MAX_GRANT_CHARS]", "self.grant"),
    ),
    *_of(
        ("enable_broker_client/api.py", ("client/test_api.py", "client/test_source.py")),
        (f"access_token: str = {_HIDDEN}", f"access_token: str = {_SHOWN}"),
    ),
    *_of(
        ("transport.py", ("client/test_api.py", "client/test_source.py")),
        ('body: bytes = field(default=b"", repr=False)', 'body: bytes = b""'),
        ("headers: Mapping[str, str] = field(repr=False)", "headers: Mapping[str, str] = field()"),
    ),
]

EXPIRY: Final = [
    *_of(
        _MODELS,
        ("return now < self.expires_at", "return now <= self.expires_at"),
        (
            "timedelta() < token.expires_at - token.issued_at <= MAX_LIFETIME",
            "timedelta() < token.expires_at - token.issued_at",
        ),
        (
            "timedelta() < token.expires_at - token.issued_at <= MAX_LIFETIME",
            "token.expires_at - token.issued_at <= MAX_LIFETIME",
        ),
    ),
    *_of(_ENABLE_MODELS, ("not self._seconds >= 1", "False")),
    *_of(
        _EXPIRY,
        ("        ends.append(jwt.expires_at)\n", "        pass\n"),
        ("ends = [requested_at + MAX_LIFETIME]", "ends = [requested_at + 30 * MAX_LIFETIME]"),
        ("ends.append(requested_at + min(expires_in, MAX_LIFETIME))", "pass"),
        ("return min(ends)", "return max(ends)"),
        ("return min(refresh_ahead, lifetime / 2)", "return refresh_ahead"),
        ("return expires_at - now <= due_window(", "return expires_at - now < due_window("),
        ("return timedelta() <= age < window", "return age < window"),
    ),
    *_of(
        _VEND,
        ("    if not stored.is_live(now):", "    if False:"),
        ("    if stored.time_left(now) < request.min_ttl:", "    if False:"),
        ("    if stored.fingerprint == request.other_than:", "    if False:"),
        ("        return RECHECK_AFTER\n", "        return timedelta.max\n"),
        ("if is_fresh(age := now - issued_at, REJECTION_INTERVAL):", "if False:"),
    ),
    *_of(
        ("token_vendor/moment.py", ("vendor/test_vend.py", "vendor/test_refresh_starter.py")),
        ("return is_fresh(now.wall - self.wall, window) and is_fresh", "return is_fresh"),
        (" and is_fresh(elapsed, window)", ""),
    ),
    *_of(
        _ACCEPTANCE,
        ("    if expires_at - max(now, issued_at) <= MIN_LIFETIME:", "    if False:"),
        ("    if expires_at is None:", "    if False:"),
    ),
    *_of(
        _POLICY,
        ("return new.expires_at > stored.expires_at", "return True"),
        ("and overwritten.expires_at > new.expires_at", "and False"),
    ),
    *_of(
        ("token_store.py", ("layer/test_token_store.py", "test_properties.py")),
        ("and is_restored(other, best)", "and False"),
        ("if block := _last_block(between):", "if block := None:"),
        ("if block := self._block_under(grant, token):", "if block := None:"),
        ("return self._put_back(grant, block) if block else stored", "return stored"),
    ),
    *_of(
        ("token_refresher/backoff.py", ("refresher/test_backoff.py",)),
        ("return now < self.until <= now + LONGEST_BACKOFF", "return now < self.until"),
        (
            "return now < self.until <= now + LONGEST_BACKOFF",
            "return self.until <= now + LONGEST_BACKOFF",
        ),
    ),
    *_of(
        ("connection_state.py", ("refresher/test_connection_state.py",)),
        ("abs(now - self.leased_at) < LEASE", "True"),
    ),
    *_of(
        ("source.py", ("client/test_source.py",)),
        ("return kept if kept and self._clock() < kept.expires_at else None", "return kept"),
        (
            "        if left <= 0:\n            raise NotNow(",
            "        if False:\n            raise NotNow(",
        ),
        ("if token.fingerprint in self._refused:", "if False:"),
    ),
    *_of(
        ("enable_broker_client/clock.py", ("client/test_source.py",)),
        ("self._lead += max(0.0, gained)", "self._lead = max(self._lead, gained)"),
    ),
]

GUARDS: Final = {"authorisation": AUTHORISATION, "masking": MASKING, "expiry": EXPIRY}


def spoil(source: str, guard: Guard) -> str:
    """The source without the guard.

    Raises:
        ValueError: the guard's text is not there, or more than once.
    """
    where, _, text = (
        guard.text.rpartition("*") if guard.text.startswith("class") else ("", "", guard.text)
    )
    instead = guard.instead.rpartition("*")[2] if where else guard.instead
    before, found, after = source.partition(where) if where else ("", "", source)
    if where and not found:
        raise ValueError(f"{guard.file}: no longer there: {where}")
    if after.count(text) < 1 or (not where and after.count(text) != 1):
        raise ValueError(f"{guard.file}: not there exactly once: {text}")
    return before + found + after.replace(text, instead, 1)


def file_of(guard: Guard, packages: Path, places: tuple[str, ...]) -> Path:
    """Where a guard stands, below a folder that has the packages at these places."""
    found = [packages / place / guard.file for place in places]
    if "/" in guard.file:
        found = [packages / Path(place).parent / guard.file for place in places]
    [file] = {path for path in found if path.exists()}
    return file


def main() -> int:
    """Take away every guard.

    Returns:
        The exit code: 0 if the tests noticed each one, 1 if not.
    """
    console, unnoticed, tried = Console(), [], 0
    names = tuple(Path(place).name for place in PACKAGES)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tests = sorted({name for guards in GUARDS.values() for g in guards for name in g.tests})
        copy_to(folder, tests)
        for kind, guards in GUARDS.items():
            for guard in guards:
                file = file_of(guard, folder / "src", names)
                sound = file.read_text(encoding="utf-8")
                file.write_text(spoil(sound, guard), encoding="utf-8")
                is_noticed = not are_green(folder, guard.tests)
                file.write_text(sound, encoding="utf-8")
                tried += 1
                if not is_noticed:
                    unnoticed.append(guard)
                mark = "[green]noticed[/]" if is_noticed else "[bold red]not noticed[/]"
                console.print(f"{mark} {kind:13} {guard.file}: ", end="")
                console.print(guard.text.strip()[:90], markup=False, highlight=False)
        if not are_green(folder, tests):
            console.print("the tests are red without any change: nothing is shown by this")
            return 1
    console.print(f"{tried - len(unnoticed)} of {tried} guards: the tests notice when it is gone")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    raise SystemExit(main())
