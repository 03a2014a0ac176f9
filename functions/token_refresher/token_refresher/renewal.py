"""Renewing the due grants of one connection: skip, or take the lease, request, and release it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from token_refresher.attempts import Attempts
from token_refresher.connection_backoffs import ConnectionBackoffs
from token_refresher.connection_state import ConnectionState
from token_refresher.dependencies import Dependencies
from token_refresher.due_grant import GrantSnapshot
from token_refresher.outcomes import Outcome, State
from token_refresher.policy import OnLease, Policy, Renews


@dataclass(slots=True)
class ConnectionRenewal:
    """One run over the due grants of one connection.

    Attributes:
        connection: its name.
        dependencies: what to work with.
        policy: what the run's trigger asks for.
        seen: the connection's state, as it was read before the tokens.
    """

    connection: str
    dependencies: Dependencies
    policy: Policy
    seen: ConnectionState

    def renew(self, due: Sequence[GrantSnapshot]) -> list[Outcome]:
        """Renew grants.

        Args:
            due: most urgent first.

        Returns:
            One outcome for each.
        """
        deps = self.dependencies
        if self.seen.is_leased(deps.now()) and self.policy.on_lease is not OnLease.IGNORE:
            return [grant.outcome(State.IN_PROGRESS) for grant in due]
        try:
            versions = deps.secrets.versions(self.connection)
            current = next(versions)
        except Exception as error:
            return [grant.failed(*deps.describe_fault(error)) for grant in due]
        backoffs = ConnectionBackoffs(
            seen=self.seen,
            state=self.seen,
            secret_version=current.version_id,
            url=deps.endpoint.url,
            now=deps.now,
        )
        if not self.policy.is_backoff_respected:
            backoffs.ignore()
        outcomes = [outcome for grant in due if (outcome := self._skipped(grant, backoffs))]
        skipped = {outcome.grant for outcome in outcomes}
        if todo := [grant for grant in due if grant.name not in skipped]:
            attempts = Attempts(deps, self.policy, backoffs, secret=current, fallbacks=versions)
            outcomes += self._with_lease(attempts, todo)
        return outcomes

    def _skipped(self, grant: GrantSnapshot, backoffs: ConnectionBackoffs) -> Outcome | None:
        """The outcome of a grant for which nothing is requested; None if something is."""
        version = grant.token.secret_version if grant.token else None
        if self.policy.renews is Renews.NOT_CURRENT and version == backoffs.secret_version:
            return replace(grant, renew_reason=None).outcome(State.NOT_DUE)
        if self.policy.is_backoff_respected and (wait := backoffs.of(grant)):
            return grant.waiting(wait)
        return None

    def _with_lease(self, attempts: Attempts, todo: list[GrantSnapshot]) -> list[Outcome]:
        deps = self.dependencies
        has_lease = deps.states.acquire(self.connection, self.seen, deps.now())
        if not has_lease and self.policy.on_lease is not OnLease.IGNORE:
            return [grant.outcome(State.IN_PROGRESS) for grant in todo]
        # After a refusal another grant is the probe: one that is refused alone must not make
        # the connection look refused for ever.
        probe = (self.seen.backoff.failures if self.seen.backoff else 0) % len(todo)
        todo = sorted(todo, key=lambda grant: grant.name in self.seen.unanswered)
        try:
            return attempts.run([todo[probe], *todo[:probe], *todo[probe + 1 :]])
        finally:
            deps.states.release(self.connection, attempts.backoffs.state)
