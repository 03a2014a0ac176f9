"""What one invocation of the refresh function is asked to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from token_broker.errors import InvalidRequest
from token_broker.grants import Grant
from token_refresher import policy
from token_refresher.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshRequest:
    """What one invocation is asked to do.

    Attributes:
        force: renew whatever is left of the stored tokens, also during a backoff.
        grants: limit the run to these; None means all.
        rejected: fingerprint of a token that Enable refused: renew the grant if it is still
            the stored one, whatever is left of it.
        changed_secret: ARN or name of a secret that has just changed; the run is then
            about the grants of its connection, and renews those of another version.
    """

    force: bool = False
    grants: tuple[str, ...] | None = None
    rejected: str | None = None
    changed_secret: str | None = None

    @property
    def policy(self) -> Policy:
        """What this trigger asks for."""
        if self.force:
            return policy.FORCED
        return policy.DUE if self.changed_secret is None else policy.SECRET_CHANGED

    @classmethod
    def from_event(cls, event: object) -> Self:
        """Read an invocation's event.

        Any schedule event and `{}` renew what is due; `force`, `grants` and `rejected` say
        more; a change event of Secrets Manager names its secret.

        Raises:
            InvalidRequest: the event is something else; a misspelt key is named.
        """
        if not isinstance(event, Mapping):
            raise InvalidRequest("the event is not a JSON object")
        if {"source", "detail-type"} <= event.keys():
            if event["source"] == "aws.secretsmanager":
                return cls(changed_secret=_changed_secret(event))
            return cls()
        if unknown := sorted(event.keys() - {"force", "grants", "rejected"}):
            raise InvalidRequest(f"unknown in the event: {', '.join(unknown)}; use force, grants")
        force, grants = event.get("force", False), event.get("grants")
        if not isinstance(force, bool):
            raise InvalidRequest("force is not true or false")
        rejected = event.get("rejected")
        if rejected is not None and not isinstance(rejected, str):
            raise InvalidRequest("rejected is not a fingerprint")
        if grants is None:
            return cls(force=force, rejected=rejected)
        if not isinstance(grants, list) or not all(isinstance(name, str) for name in grants):
            raise InvalidRequest("grants is not a list of grant names")
        return cls(force=force, grants=tuple(dict.fromkeys(grants)), rejected=rejected)

    def names(self, grants: Mapping[str, Grant]) -> tuple[str, ...]:
        """The grants this request is about.

        Raises:
            InvalidRequest: a name is not in grants.toml.
        """
        if self.grants is None:
            return tuple(grants)
        if unknown := [name for name in self.grants if name not in grants]:
            raise InvalidRequest(
                f"no such grant: {', '.join(unknown)}; there are {', '.join(grants)}"
            )
        return self.grants


def _changed_secret(event: Mapping[str, object]) -> str:
    """Which secret a change event is about.

    The label event, which Secrets Manager itself sends, names it among `resources`. CloudTrail's
    events name it in `responseElements` or in `additionalEventData`, as `arn` in some and `aRN`
    in others, or as the request named it.

    Returns:
        An ARN or a name; empty if the event names none.
    """
    detail = event.get("detail")
    detail = detail if isinstance(detail, Mapping) else {}
    places = (
        (detail.get("responseElements"), ("arn", "aRN", "ARN")),
        (detail.get("additionalEventData"), ("SecretId", "arn", "aRN")),
        (detail.get("requestParameters"), ("secretId",)),
        (detail, ("arn", "aRN", "secretId", "name")),
    )
    resources = event.get("resources")
    named = list(resources) if isinstance(resources, list) else []
    for place, keys in places:
        if isinstance(place, Mapping):
            named += [place.get(key) for key in keys]
    return next((name for name in named if isinstance(name, str) and name), "")
