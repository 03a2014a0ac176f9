"""What runs tell each other: refusals, so that none knocks every minute, and who is at it.

A hold says: not before this moment, unless what it depends on changes. A claim says: a run is
renewing this connection's grants since then. Both are kept in Parameter Store, one parameter for
each connection, because what an environment remembers dies with it. They hold no secret.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from types_boto3_ssm import SSMClient

FIRST_HOLD: Final = timedelta(seconds=55)
"""Just under the default schedule's minute, so that the next run but one is not the first."""

LONGEST_HOLD: Final = timedelta(minutes=15)
"""However often Enable said no, or however long it asks to wait, it is asked again then."""

CLAIM_LASTS: Final = timedelta(seconds=55)
"""The refresh function's time-out: a run that was killed does not block the one after the next."""

LAST_TRY: Final = timedelta(minutes=2)
"""Before a stored token expires, in which another grant's refusal does not hold its own back."""

_MAX_BYTES: Final = 4_000
_WORD: Final = re.compile(r"[a-z0-9_]{0,40}")
_MAX_REFUSALS: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Why a grant or a whole connection is not tried for a while.

    Attributes:
        reason: the refusal's fixed word, such as `invalid_scope`.
        refusals: how many in a row.
        until: not before then; aware UTC.
        depends_on: what was refused (secret version and scope); a change lifts the hold.
            Empty for a wait that Enable asked for, which no change shortens.
    """

    reason: str
    refusals: int
    until: datetime
    depends_on: str

    def covers(self, now: datetime, depends_on: str) -> bool:
        """Whether to keep waiting; never longer than the longest hold, whoever's clock was fast."""
        return now < self.until <= now + LONGEST_HOLD and self.depends_on in {"", depends_on}


def hold_after_refusal(
    previous: Hold | None,
    *,
    reason: str,
    now: datetime,
    depends_on: str,
    expires_at: datetime | None,
) -> Hold:
    """The next hold after a refusal: about 1, 2, 4, 8 and then 15 minutes.

    It takes at most half of what is left of the stored token, so that the tries grow denser
    towards its end.
    """
    again = previous is not None and previous.depends_on == depends_on
    refusals = previous.refusals + 1 if previous and again else 1
    length = min(FIRST_HOLD * (1 << min(refusals - 1, 10)), LONGEST_HOLD)
    if expires_at is not None and expires_at > now:
        length = min(length, max((expires_at - now) / 2, FIRST_HOLD))
    return Hold(reason=reason, refusals=refusals, until=now + length, depends_on=depends_on)


def hold_of_last_try(*, reason: str, now: datetime, depends_on: str, expires_at: datetime) -> Hold:
    """The hold on one grant after a last try: half of what is left of its token, at least 2 s.

    So a handful of tries are made, however many runs are started, and the last of them
    seconds before the token's end.
    """
    length = max((expires_at - now) / 2, timedelta(seconds=2))
    return Hold(reason=reason, refusals=0, until=now + length, depends_on=depends_on)


def hold_as_asked(*, reason: str, now: datetime, retry_after: timedelta) -> Hold:
    """The hold that a `Retry-After` asks for, cut to LONGEST_HOLD."""
    return Hold(
        reason=reason, refusals=0, until=now + min(retry_after, LONGEST_HOLD), depends_on=""
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Holds:
    """The holds of one connection, and the claim on it.

    Attributes:
        connection: on all of its grants.
        grants: on single ones, by name.
        claimed_at: since when a run is renewing them; None if none is.
        claimed_by: that run's own id.
        version: of the parameter these were read from, 0 if there was none; not stored.
    """

    connection: Hold | None = None
    grants: Mapping[str, Hold] = field(default_factory=dict)
    claimed_at: datetime | None = None
    claimed_by: str = ""
    version: int = field(default=0, compare=False)

    def is_claimed(self, now: datetime) -> bool:
        """Whether another run is at it."""
        # Both ways, so that a run whose clock was fast blocks nobody for longer.
        return self.claimed_at is not None and abs(now - self.claimed_at) < CLAIM_LASTS

    def with_grant(self, name: str, hold: Hold | None) -> Self:
        """The same with another hold on one grant, or with none."""
        others = {grant: held for grant, held in self.grants.items() if grant != name}
        return replace(self, grants=others | ({name: hold} if hold else {}))

    def to_json(self) -> str:
        """The parameter's value; where there are too many, those that end last are kept."""
        grants = dict(sorted(self.grants.items(), key=lambda item: item[1].until, reverse=True))
        while len(text := self._dump(grants)) > _MAX_BYTES:
            grants.popitem()
        return text

    def _dump(self, grants: Mapping[str, Hold]) -> str:
        return json.dumps(
            {
                "connection": _values(self.connection) if self.connection else None,
                "grants": {name: _values(hold) for name, hold in grants.items()},
                "claimed_at": int(self.claimed_at.timestamp()) if self.claimed_at else None,
                "claimed_by": self.claimed_by,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str, *, version: int = 0) -> Self:
        """Read a parameter's value; what is malformed holds nothing."""
        try:
            record = json.loads(text)
            held, claimed = record["connection"], record["claimed_at"]
            return cls(
                version=version,
                claimed_at=datetime.fromtimestamp(claimed, UTC) if claimed else None,
                claimed_by=str(record["claimed_by"])[:40],
                connection=_hold(held) if held else None,
                grants={name: _hold(values) for name, values in record["grants"].items()},
            )
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            OverflowError,
            OSError,
            RecursionError,
        ):
            return cls(version=version)


def _values(hold: Hold) -> list[object]:
    return [hold.reason, hold.refusals, int(hold.until.timestamp()), hold.depends_on]


def _hold(values: list[Any]) -> Hold:
    reason, refusals, until, depends_on = values
    is_sound = (
        _WORD.fullmatch(reason)
        and _WORD.fullmatch(depends_on)
        and isinstance(refusals, int)
        and 0 <= refusals <= _MAX_REFUSALS
        and isinstance(until, int)
    )
    if not is_sound:
        raise ValueError("not a hold")
    return Hold(
        reason=reason,
        refusals=refusals,
        until=datetime.fromtimestamp(until, UTC),
        depends_on=depends_on,
    )


class ParameterHoldStore:
    """Holds in Parameter Store, under `{prefix}/holds/{connection}`.

    No grant can be named like one: a grant's name has no `/`.
    """

    def __init__(self, ssm: "SSMClient", *, prefix: str) -> None:
        self._ssm = ssm
        self._prefix = prefix

    def read(self, connection: str, *, version: int = 0) -> Holds:
        """The holds of a connection, or those of an earlier version; none if there are none.

        Raises:
            botocore.exceptions.ClientError, BotoCoreError: Parameter Store said no.
        """
        name = f"{self._prefix}/holds/{connection}" + (f":{version}" if version else "")
        try:
            answer = self._ssm.get_parameter(Name=name)
        except (
            self._ssm.exceptions.ParameterNotFound,
            self._ssm.exceptions.ParameterVersionNotFound,
        ):
            return Holds()
        parameter = answer["Parameter"]
        return Holds.from_json(parameter["Value"], version=parameter["Version"])

    def write(self, connection: str, holds: Holds) -> int:
        """Replace the holds of a connection.

        Returns:
            The parameter's new version.

        Raises:
            botocore.exceptions.ClientError, BotoCoreError: Parameter Store said no.
        """
        return self._ssm.put_parameter(
            Name=f"{self._prefix}/holds/{connection}",
            Description="What the token broker's runs tell each other; safe to delete",
            Value=holds.to_json(),
            Type="String",
            Overwrite=True,
        )["Version"]
