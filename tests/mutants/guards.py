"""Takes away one guard after the other, and demands that the unit tests notice each.

`python -m tests.mutants.guards`, part of `make mutants`. A guard is an authorisation check, a
masking or an expiry comparison; taking it away is one edit of a copy of the source. Its place is
found in the syntax tree: a piece of code in a named place, however it is formatted. That each is
still found, exactly once, is a test of `make test`.
"""

import ast
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from tests.mutants.laboratory import PACKAGES, are_green, copy_to

type Edit = tuple[str, str, str]
"""A place, the code there, and what is put there instead."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What is taken away.

    Attributes:
        file: of one of the packages; a bare name where there is only one of that name.
        tests: those that must turn red.
        place: names of classes, functions and assigned variables, from the outside in:
            `Vendor.vend.is_only_audited`; empty for the module.
        code: an expression or a statement that is there exactly once, or a part of a string.
        instead: what is put there.
    """

    file: str
    tests: tuple[str, ...]
    place: str
    code: str
    instead: str


def _of(place: tuple[str, tuple[str, ...]], *edits: Edit) -> list[Guard]:
    file, tests = place
    return [
        Guard(file=file, tests=tests, place=place, code=code, instead=instead)
        for place, code, instead in edits
    ]


AUTHORISATION: Final = [
    *_of(
        _CALLERS,
        ("_matches", "re.fullmatch", "re.match"),
        ("_matches.wildcards", "'[^:]*'", "'.*'"),
        ("_matches.wildcards", "'[^:]'", "'.'"),
        ("_matches.expression", "re.escape(char)", "char"),
        ("principal_arn", "_ASSUMED_ROLE.fullmatch", "_ASSUMED_ROLE.match"),
        ("pattern_fault", "_PATTERN.fullmatch", "_PATTERN.match"),
        ("_PATTERN", "r'iam::(?P<account>[0-9]{12})'", "r'iam::(?P<account>[0-9*]+)'"),
    ),
    *_of(
        _EVENT,
        ("caller_arn", "not isinstance(arn, str) or not arn", "not isinstance(arn, str)"),
        ("grant", "not path.endswith(f'/tokens/{name}{suffix}')", "False"),
        ("_only", "len(values) != 1 or not values[0]", "not values[0]"),
        ("requested_scope", "grant_type != 'client_credentials'", "False"),
    ),
    *_of(
        _VEND,
        ("Vendor._admit", "grant is None", "False"),
        (
            "Vendor._admit",
            "grant.callers is None or is_allowed(caller_arn, grant.callers)",
            "True",
        ),
        ("Vendor._admit", "grant.mode == 'audit'", "True"),
        ("Vendor._admit", "raise CallerNotAllowed", "return False"),
        (
            "Vendor.grant_of_scope",
            "grant.callers is None or set(grant.scope) != scope",
            "grant.callers is None",
        ),
        ("Vendor.grant_of_scope", "is_allowed(caller_arn, grant.callers)", "True"),
        ("judge", "not set(stored.scope) <= set(scope)", "False"),
        (
            "_is_open",
            "grant.callers is None or grant.mode == 'audit' or is_allowed(caller_arn, "
            "grant.callers)",
            "True",
        ),
        ("Vendor.report_rejection", "self._admit(request.grant, request.caller_arn)", "None"),
        (
            "Vendor.vend.is_only_audited",
            "self._admit(request.grant, request.caller_arn)",
            "False",
        ),
        ("Vendor._read", "Reason.BLOCKED", "Reason.MISSING"),
    ),
    *_of(
        _MODELS,
        ("stored_state", "(reason := _block_reason(text)) is not None", "(reason := None)"),
        ("is_visible_ascii", "_VISIBLE_ASCII.fullmatch", "_VISIBLE_ASCII.match"),
    ),
    *_of(
        _ENABLE_MODELS,
        ("TokenResponse.__post_init__", "self.token_type.lower() != 'bearer'", "False"),
    ),
    *_of(
        _ACCEPTANCE,
        ("_check_scope", "granted != set(scope)", "False"),
    ),
    *_of(
        ("due_grant.py", ("refresher/test_refresh.py",)),
        ("_reason_of_token", "set(token.scope) != set(grant.scope)", "False"),
    ),
    *_of(
        _HTTP_CLIENT,
        (
            "_send.response",
            "pools.request(method, url, body=body, headers={**headers, 'Connection': "
            "'close'}, retries=False, redirect=False, preload_content=False, "
            "decode_content=False)",
            "pools.request(method, url, body=body, headers={**headers, 'Connection': "
            "'close'}, retries=3, preload_content=False, decode_content=False)",
        ),
        (
            "_send.response",
            "pools.request(method, url, body=body, headers={**headers, 'Connection': "
            "'close'}, retries=False, redirect=False, preload_content=False, "
            "decode_content=False)",
            "pools.request(method, url, body=body, headers={**headers, 'Connection': "
            "'close'}, retries=3, redirect=False, preload_content=False, "
            "decode_content=False)",
        ),
        ("_send.response", "{**headers, 'Connection': 'close'}", "{**headers}"),
    ),
    *_of(
        ("token_refresher/enable/connections.py", ("refresher/enable/test_http_client.py",)),
        ("_Response._read_status", "not 100 <= line[1] < 200", "line[1] != 100"),
    ),
    *_of(
        ("grants.py", ("layer/test_grants.py", "refresher/test_check_grants.py")),
        ("_TOKEN_URL", "'http://(127'", "'http://([a-z.]+|127'"),
        ("GrantsFile.__post_init__", "not _NAME.fullmatch(name)", "False"),
        ("Grant.__post_init__", "self.callers is not None and (not self.callers)", "False"),
        ("Grant.__post_init__", "pattern_fault(pattern)", "None"),
    ),
    *_of(
        ("enable_broker_client/api.py", ("client/test_api.py",)),
        ("TokenApi.__init__", "parts.scheme != 'https'", "False"),
    ),
    *_of(
        ("enable_broker_client/origins.py", ("client/test_origins.py", "client/test_requests.py")),
        ("Audience.includes", "is_included = origin == self._origin", "is_included = True"),
        (
            "Audience.includes",
            "is_included = origin[0] == 'https' or (origin[0] == 'http' and "
            "is_loopback(origin[1]))",
            "is_included = True or (origin[0] == 'http' and is_loopback(origin[1]))",
        ),
        (
            "Audience.is_refusal",
            "origin_of(url) in self._accepting and route not in self._refusing",
            "route not in self._refusing",
        ),
    ),
]

MASKING: Final = [
    *_of(
        _ENABLE_MODELS,
        ("TokenRequest.client_secret", "field(repr=False)", "field()"),
        ("TokenResponse.access_token", "field(repr=False)", "field()"),
        ("OAuthError.error_description", "field(default=None, repr=False)", "None"),
        ("OAuthError.error_uri", "field(default=None, repr=False)", "None"),
    ),
    *_of(
        _MODELS,
        ("StoredToken.access_token", "field(repr=False)", "field()"),
        ("fingerprint", "hashlib.sha256(token.encode()).hexdigest()[:12]", "token"),
        ("_version_id", "_VERSION_ID.fullmatch(value)", "True"),
    ),
    *_of(
        ("credentials.py", ("refresher/test_credentials.py",)),
        ("ClientCredentials.client_secret", "field(repr=False)", "field()"),
    ),
    *_of(
        ("aws.py", ("layer/test_errors.py",)),
        ("describe_fault", "f'{error.operation_name} was refused by AWS: {code}'", "str(error)"),
        ("describe_fault", "f'AWS could not be reached or did not respond: {kind}'", "str(error)"),
        (
            "describe_fault",
            "f'unexpected {type(error).__name__}; please report it'",
            "str(error)",
        ),
    ),
    *_of(
        ("token_refresher/enable/validation.py", ("refresher/enable/test_validation.py",)),
        (
            "_fault_text.text",
            "'not valid JSON' if kind == 'json_invalid' else message.removeprefix('Value error, ')",
            "message.removeprefix('Value error, ')",
        ),
        (
            "validate_json",
            "faults = fault_texts(error)",
            "raise ValueError('; '.join(fault_texts(error)))",
        ),
    ),
    *_of(
        _RESPONSES,
        ("_other_error", "'unknown_error'", "code"),
        ("read_token", "fault = str(error)", "fault = str(response.body)"),
    ),
    *_of(
        _HTTP_CLIENT,
        ("HttpClient.request", "fault = _kind(error)", "raise NoResponse(_kind(error))"),
        ("", "logging.getLogger('urllib3.connection').setLevel(logging.CRITICAL)", "None"),
    ),
    *_of(
        ("connection_state.py", ("refresher/test_connection_state.py",)),
        ("_backoff", "_WORD.fullmatch(reason)", "reason is not None"),
    ),
    *_of(
        ("token_vendor/app.py", ("vendor/test_app.py",)),
        ("_refuse_for_fault.description", "'the token cannot be read now'", "record.cause"),
    ),
    *_of(
        ("token_vendor/responses.py", ("layer/test_models.py",)),
        ("VendedToken.access_token", "field(repr=False)", "field()"),
    ),
    *_of(
        ("token_vendor/audit_record.py", ("vendor/test_audit_record.py",)),
        ("AuditRecord.log_fields", "self.grant[:MAX_GRANT_CHARS]", "self.grant"),
    ),
    *_of(
        ("enable_broker_client/api.py", ("client/test_api.py", "client/test_source.py")),
        ("Token.access_token", "field(repr=False)", "field()"),
    ),
    *_of(
        ("transport.py", ("client/test_api.py", "client/test_source.py")),
        ("Response.body", "field(default=b'', repr=False)", "b''"),
        ("Request.headers", "field(repr=False)", "field()"),
    ),
]

EXPIRY: Final = [
    *_of(
        _MODELS,
        ("StoredToken.is_live", "now < self.expires_at", "now <= self.expires_at"),
        (
            "StoredToken.parse.is_sound",
            "timedelta() < token.expires_at - token.issued_at <= MAX_LIFETIME",
            "timedelta() < token.expires_at - token.issued_at",
        ),
        (
            "StoredToken.parse.is_sound",
            "timedelta() < token.expires_at - token.issued_at <= MAX_LIFETIME",
            "token.expires_at - token.issued_at <= MAX_LIFETIME",
        ),
    ),
    *_of(
        _ENABLE_MODELS,
        ("TokenResponse.__post_init__", "not self._seconds >= 1", "False"),
    ),
    *_of(
        _EXPIRY,
        ("expires_at", "ends.append(jwt.expires_at)", "None"),
        ("expires_at.ends", "MAX_LIFETIME", "30 * MAX_LIFETIME"),
        ("expires_at", "ends.append(requested_at + min(expires_in, MAX_LIFETIME))", "None"),
        ("expires_at", "min(ends)", "max(ends)"),
        ("due_window", "min(refresh_ahead, lifetime / 2)", "refresh_ahead"),
        (
            "is_due",
            "expires_at - now <= due_window(expires_at - issued_at, refresh_ahead)",
            "expires_at - now < due_window(expires_at - issued_at, refresh_ahead)",
        ),
        ("is_fresh", "timedelta() <= age < window", "age < window"),
    ),
    *_of(
        _VEND,
        ("judge", "not stored.is_live(now)", "False"),
        ("judge", "stored.time_left(now) < request.min_ttl", "False"),
        ("judge", "stored.fingerprint == request.other_than", "False"),
        ("recheck_after", "RECHECK_AFTER", "timedelta.max"),
        (
            "Vendor.report_rejection",
            "is_fresh((age := (now - issued_at)), REJECTION_INTERVAL)",
            "False",
        ),
    ),
    *_of(
        ("token_vendor/moment.py", ("vendor/test_vend.py", "vendor/test_refresh_starter.py")),
        (
            "Moment.is_within",
            "is_fresh(now.wall - self.wall, window) and is_fresh(elapsed, window)",
            "is_fresh(elapsed, window)",
        ),
        (
            "Moment.is_within",
            "is_fresh(now.wall - self.wall, window) and is_fresh(elapsed, window)",
            "is_fresh(now.wall - self.wall, window)",
        ),
    ),
    *_of(
        _ACCEPTANCE,
        ("accept", "expires_at - max(now, issued_at) <= MIN_LIFETIME", "False"),
        ("accept", "expires_at is None", "False"),
    ),
    *_of(
        _POLICY,
        ("Replaces.is_replaced", "new.expires_at > stored.expires_at", "True"),
        ("Replaces.is_restored", "overwritten.expires_at > new.expires_at", "False"),
    ),
    *_of(
        ("token_store.py", ("layer/test_token_store.py", "test_properties.py")),
        ("ParameterTokenStore.replace", "is_restored(other, best)", "False"),
        ("ParameterTokenStore.replace", "_last_block(between)", "None"),
        ("ParameterTokenStore.read", "self._block_under(grant, token)", "None"),
        (
            "ParameterTokenStore.checked",
            "self._put_back(grant, block) if block else stored",
            "stored",
        ),
    ),
    *_of(
        ("token_refresher/backoff.py", ("refresher/test_backoff.py",)),
        ("Backoff.covers", "now < self.until <= now + LONGEST_BACKOFF", "now < self.until"),
        (
            "Backoff.covers",
            "now < self.until <= now + LONGEST_BACKOFF",
            "self.until <= now + LONGEST_BACKOFF",
        ),
    ),
    *_of(
        ("connection_state.py", ("refresher/test_connection_state.py",)),
        ("ConnectionState.is_leased", "abs(now - self.leased_at) < LEASE", "True"),
    ),
    *_of(
        ("source.py", ("client/test_source.py",)),
        (
            "TokenSource._live",
            "kept if kept and self._clock() < kept.expires_at else None",
            "kept",
        ),
        ("TokenSource._attempt", "left <= 0", "False"),
        ("TokenSource._attempt", "token.fingerprint in self._refused", "False"),
    ),
    *_of(
        ("enable_broker_client/clock.py", ("client/test_source.py",)),
        (
            "SteadyClock.__call__",
            "self._lead += max(0.0, gained)",
            "self._lead = max(self._lead, gained)",
        ),
    ),
]

GUARDS: Final = {"authorisation": AUTHORISATION, "masking": MASKING, "expiry": EXPIRY}


class _Replace(ast.NodeTransformer):
    def __init__(self, node: ast.AST, instead: ast.AST) -> None:
        self._node, self._instead = node, instead

    def visit(self, node: ast.AST) -> ast.AST:
        return self._instead if node is self._node else self.generic_visit(node)


def spoil(source: str, guard: Guard) -> str:
    """The source without the guard.

    Raises:
        ValueError: the guard's code is not in its place, or more than once.
    """
    module, code, instead = ast.parse(source), _parsed(guard.code), _parsed(guard.instead)
    nodes = [node for place in _places(module, guard.place) for node in ast.walk(place)]
    found = [node for node in nodes if ast.dump(node) == ast.dump(code)]
    if not found and isinstance(code, ast.Constant) and isinstance(instead, ast.Constant):
        found = [node for node in nodes if isinstance(node, ast.Constant) and _has(node, code)]
        instead = ast.Constant(found[0].value.replace(code.value, instead.value))
    if len(found) != 1:
        raise ValueError(f"{guard.file}: {guard.place}: not there exactly once: {guard.code}")
    return ast.unparse(_Replace(found[0], instead).visit(module))


def _parsed(code: str) -> ast.AST:
    """An expression, or else a statement."""
    try:
        return ast.parse(code, mode="eval").body
    except SyntaxError:
        return ast.parse(code).body[0]


def _places(module: ast.AST, names: str) -> list[ast.AST]:
    places = [module]
    for name in filter(None, names.split(".")):
        places = [node for place in places for node in _inside(place) if _name(node) == name]
    return places


def _inside(place: ast.AST) -> Iterator[ast.AST]:
    """The nodes below one, but none below another that has a name."""
    for node in ast.iter_child_nodes(place):
        yield node
        if _name(node) is None:
            yield from _inside(node)


def _name(node: ast.AST) -> str | None:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name
    return None


def _has(node: ast.Constant, part: ast.Constant) -> bool:
    return isinstance(node.value, str) and part.value in node.value


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
                console.print(f"{guard.place}: {guard.code}"[:90], markup=False, highlight=False)
        if not are_green(folder, tests):
            console.print("the tests are red without any change: nothing is shown by this")
            return 1
    console.print(f"{tried - len(unnoticed)} of {tried} guards: the tests notice when it is gone")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    raise SystemExit(main())
