"""What refresh runs share about a connection: its backoffs, and the lease of the run at work.

It is in Parameter Store, one parameter for each connection, because the memory of an
environment ends with it. It contains no secret, and is safe to delete.
"""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Self

from token_broker.versions import written_between
from token_refresher.backoff import Backoff

if TYPE_CHECKING:
    from types_boto3_ssm import SSMClient

LEASE: Final = timedelta(seconds=55)
"""The refresh function's time-out: the lease of a run that was killed ends with it."""

_MAX_BYTES: Final = 4_000
_MOST_UNANSWERED: Final = 20
_MAX_FAILURES: Final = 1_000_000
_WORD: Final = re.compile(r"[a-z0-9_]{0,40}")
_MALFORMED: Final = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,
    OSError,
    RecursionError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionState:
    """The backoffs of one connection, and its lease.

    Attributes:
        backoff: of all of its grants.
        grants: of single ones, by name.
        unanswered: grants whose last attempt got no response: they go last, so that they take
            no time from the others.
        leased_at: since when a run renews them; None if none does.
        owner: that run's own id.
        version: of the parameter that it was read from, 0 if there was none, None if it could
            not be read; not stored.
    """

    backoff: Backoff | None = None
    grants: Mapping[str, Backoff] = field(default_factory=dict)
    unanswered: frozenset[str] = frozenset()
    leased_at: datetime | None = None
    owner: str = ""
    version: int | None = field(default=0, compare=False)

    def is_leased(self, now: datetime) -> bool:
        """Whether a run renews the connection."""
        # In both directions, so that a run whose clock was fast blocks nobody for longer.
        return self.leased_at is not None and abs(now - self.leased_at) < LEASE

    def with_grant(self, name: str, backoff: Backoff | None) -> Self:
        """A copy with another backoff of one grant, or with none."""
        others = {grant: other for grant, other in self.grants.items() if grant != name}
        return replace(self, grants=others | ({name: backoff} if backoff else {}))

    def to_json(self) -> str:
        """The parameter's value; if the backoffs are too many, those that end last are kept."""
        grants = dict(sorted(self.grants.items(), key=lambda item: item[1].until, reverse=True))
        while len(text := self._dump(grants)) > _MAX_BYTES:
            grants.popitem()
        return text

    def _dump(self, grants: Mapping[str, Backoff]) -> str:
        return json.dumps(
            {
                "backoff": _values(self.backoff) if self.backoff else None,
                "grants": {name: _values(backoff) for name, backoff in grants.items()},
                "unanswered": sorted(self.unanswered)[:_MOST_UNANSWERED],
                "leased_at": self.leased_at.timestamp() if self.leased_at else None,
                "owner": self.owner,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str, *, version: int = 0) -> Self:
        """Read a parameter's value; what is malformed, or of an older version, is empty."""
        try:
            record = json.loads(text)
            backoff, leased_at = record["backoff"], record["leased_at"]
            return cls(
                version=version,
                leased_at=_moment(leased_at) if leased_at else None,
                owner=str(record["owner"])[:40],
                backoff=_backoff(backoff) if backoff else None,
                grants={name: _backoff(values) for name, values in record["grants"].items()},
                unanswered=frozenset(str(name)[:64] for name in record["unanswered"]),
            )
        except _MALFORMED:
            return cls(version=version)


def _values(backoff: Backoff) -> list[object]:
    return [backoff.reason, backoff.failures, backoff.until.timestamp(), backoff.key]


def _moment(value: object) -> datetime:
    if not isinstance(value, int | float):
        raise TypeError
    return datetime.fromtimestamp(value, UTC)


def _backoff(values: list[object]) -> Backoff:
    reason, failures, until, key = values
    if not (isinstance(reason, str) and isinstance(key, str) and isinstance(failures, int)):
        raise TypeError
    if not (_WORD.fullmatch(reason) and _WORD.fullmatch(key) and 0 <= failures <= _MAX_FAILURES):
        raise ValueError
    return Backoff(reason=reason, failures=failures, until=_moment(until), key=key)


class ConnectionStateStore:
    """States in Parameter Store, under `{prefix}/connections/{connection}`.

    No grant can have that name: a grant's name has no `/`. If Parameter Store refuses a call, the
    run goes on without the state: a token matters more than a request saved.

    Args:
        ssm: a boto3 or botocore client of Systems Manager.
        prefix: where the parameters live: begins with `/`, ends without.
    """

    def __init__(self, ssm: "SSMClient", *, prefix: str) -> None:
        self._ssm = ssm
        self._prefix = prefix

    def read(self, connection: str) -> ConnectionState:
        """The state of a connection; an empty one if there is none, or none can be read."""
        try:
            return self._get(self.name(connection))
        except Exception:
            return ConnectionState(version=None)

    def acquire(self, connection: str, seen: ConnectionState, now: datetime) -> bool:
        """Take the lease of a connection.

        Of the runs that read the same state, the one whose write is the very next version has
        the lease. After a lost response botocore writes again, so the owner decides.

        Args:
            connection: its name.
            seen: the state that this run read.
            now: aware UTC.

        Returns:
            Whether this run has the lease; also if that cannot be found out.
        """
        leased = replace(seen, leased_at=now, owner=uuid.uuid4().hex[:12])
        name = self.name(connection)
        try:
            written = self._put(name, leased)
            if seen.version is None:
                return True
            between = written_between(
                lambda version: self._get(f"{name}:{version}"), seen=seen.version, written=written
            )
            if not between or between[0].owner == leased.owner:
                return True
            others = [state for state in between if state.owner != leased.owner]
            if not others[-1].is_leased(now):  # that run has ended: its result stands again
                self._put(name, others[-1])
        except Exception:
            return True
        return False

    def release(self, connection: str, state: ConnectionState) -> None:
        """Give up the lease and leave the backoffs to the next run.

        If Parameter Store refuses, the lease ends by itself, and the next run makes a request
        too many.
        """
        try:
            self._put(self.name(connection), replace(state, leased_at=None, owner=""))
        except Exception:
            return

    def name(self, connection: str) -> str:
        """The parameter of a connection."""
        return f"{self._prefix}/connections/{connection}"

    def _get(self, name: str) -> ConnectionState:
        try:
            response = self._ssm.get_parameter(Name=name)
        except (
            self._ssm.exceptions.ParameterNotFound,
            self._ssm.exceptions.ParameterVersionNotFound,
        ):
            return ConnectionState()
        parameter = response["Parameter"]
        return ConnectionState.from_json(parameter["Value"], version=parameter["Version"])

    def _put(self, name: str, state: ConnectionState) -> int:
        return self._ssm.put_parameter(
            Name=name,
            Description="What the token broker's refresh runs share; safe to delete",
            Value=state.to_json(),
            Type="String",
            Overwrite=True,
        )["Version"]
