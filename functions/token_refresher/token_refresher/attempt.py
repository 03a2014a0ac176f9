"""One attempt for one grant: request a token, accept it, store it."""

from dataclasses import dataclass, replace

from token_broker.errors import TokenEndpointError
from token_broker.models import Blocked, StoredToken, Unreadable
from token_refresher.connection_backoffs import Refused
from token_refresher.credentials import CURRENT
from token_refresher.dependencies import Dependencies, Secret
from token_refresher.due_grant import GrantSnapshot
from token_refresher.enable.acceptance import accept
from token_refresher.outcomes import Outcome, State
from token_refresher.policy import Policy


@dataclass(frozen=True, slots=True)
class Issued:
    """Enable issued a token; the outcome tells whether it is stored."""

    outcome: Outcome
    attempts: int


type Result = Issued | Refused | Outcome
"""An outcome alone: the attempt failed for a fault of AWS or of ours."""


def attempt(grant: GrantSnapshot, secret: Secret, policy: Policy, deps: Dependencies) -> Result:
    """Request one token and store it; nothing is raised."""
    scope = grant.grant.scope
    try:
        issued = deps.endpoint.request_token(
            secret.request(scope), time_left=deps.time_left, attempts=1
        )
        token = accept(issued, scope=scope, now=deps.now(), secret_version=secret.version_id)
    except TokenEndpointError as error:
        return Refused(error, deps.now())
    except Exception as error:
        return grant.failed(*deps.describe_fault(error))
    return Issued(_store(grant, token, secret, policy, deps), issued.attempts)


def _store(
    grant: GrantSnapshot, token: StoredToken, secret: Secret, policy: Policy, deps: Dependencies
) -> Outcome:
    """Store a token, unless what is stored is as good."""
    replaces = grant.replaces(policy)
    stored: StoredToken | Blocked
    if grant.token and not replaces.is_replaced(grant.token, token):
        stored = grant.token
    else:
        try:
            stored = deps.store.replace(
                grant.name, token, seen=grant.stored, is_restored=replaces.is_restored
            )
        except Exception as error:
            return _not_stored(grant, error, deps)
    if isinstance(stored, Blocked):
        return grant.blocked(stored)
    state = State.RENEWED if stored == token else State.UNCHANGED
    stage = "" if secret.stage == CURRENT else secret.stage
    return replace(grant.outcome(state, token=stored), secret_stage=stage)


def _not_stored(grant: GrantSnapshot, error: Exception, deps: Dependencies) -> Outcome:
    reason, cause = deps.describe_fault(error)
    if isinstance(grant.stored, Unreadable):
        cause = (
            f"the stored token cannot be decrypted, and a new one could not be stored: {cause}."
            f" Check the key {deps.store.key_id} and the role's kms: actions"
        )
    return grant.failed(reason, cause)
