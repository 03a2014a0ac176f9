"""The attempts of one run for the grants of one connection, in rounds.

The first request is a probe: if Enable rejects the client, no other grant makes one. But its head
start is 2 seconds, not the run; and each grant's first attempt begins before any second one.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from token_broker.errors import TokenEndpointUnavailable
from token_refresher.attempt import Issued, Result, attempt
from token_refresher.connection_backoffs import ConnectionBackoffs, Refused
from token_refresher.dependencies import Dependencies, Secret
from token_refresher.due_grant import GrantSnapshot
from token_refresher.enable.endpoint import BACKOFF_BASE, LONGEST_WAIT, MAX_ATTEMPTS
from token_refresher.outcomes import Outcome, State
from token_refresher.policy import Policy
from token_refresher.turns import begin_in_turn

TIME_TO_RENEW: Final = timedelta(seconds=15)
"""No attempt begins with less left of the invocation: a throttled write takes its time."""

type _Results = list[tuple[GrantSnapshot, Result]]


class Attempts:
    """The attempts of one run.

    Args:
        dependencies: what to work with.
        policy: what the run's trigger asks for.
        backoffs: of the connection.
        secret: the current version.
        fallbacks: the other versions, for when Enable does not accept the current one.
    """

    def __init__(
        self,
        dependencies: Dependencies,
        policy: Policy,
        backoffs: ConnectionBackoffs,
        *,
        secret: Secret,
        fallbacks: Iterator[Secret],
    ) -> None:
        self.backoffs = backoffs
        self._deps = dependencies
        self._policy = policy
        self._secret = secret
        self._fallbacks = fallbacks
        self._is_verified = False
        self._outcomes: dict[str, Outcome] = {}
        self._made = Counter[str]()

    def run(self, grants: Sequence[GrantSnapshot]) -> list[Outcome]:
        """Renew grants, the first one as the probe.

        Returns:
            One outcome for each.
        """
        pending = list(grants)
        for number in range(MAX_ATTEMPTS):
            if not pending or (number and not self._pause(self._wait_before(number))):
                break
            pending = self._round(pending)
        return [
            replace(outcome, attempts=self._made[name]) for name, outcome in self._outcomes.items()
        ]

    def _wait_before(self, number: int) -> timedelta:
        jittered = BACKOFF_BASE * (1 << (number - 1)) * self._deps.jitter()
        return max(jittered, self._requested_wait([]))

    def _pause(self, wait: timedelta) -> bool:
        """Wait; whether there is time for that and for an attempt."""
        if wait > LONGEST_WAIT or wait + TIME_TO_RENEW > self._deps.time_left():
            return False
        if wait > timedelta():
            self._deps.pause(wait.total_seconds())
        return True

    def _requested_wait(self, results: _Results) -> timedelta:
        """What is left of the longest `Retry-After` of this run."""
        waits = [result.requested for _, result in results if isinstance(result, Refused)]
        ends = [wait.until for wait in [*waits, self.backoffs.requested] if wait]
        return max([end - self._deps.now() for end in ends], default=timedelta())

    def _round(self, grants: list[GrantSnapshot]) -> list[GrantSnapshot]:
        """One attempt for each grant; those that are to be attempted again."""
        results = begin_in_turn(
            grants, self._attempt, may_begin=self._may_begin, dependencies=self._deps
        )
        rest = grants[len(results) :]
        if rejected := self._rejected(results):
            return self._after_rejection(*rejected, results, rest)
        again = [grant for grant, result in results if self._settle(grant, result)]
        self._leave(rest)
        return again

    def _may_begin(self, results: _Results) -> bool:
        return not self._rejected(results) and self._pause(self._requested_wait(results))

    def _rejected(self, results: _Results) -> tuple[GrantSnapshot, Refused] | None:
        """By which grant Enable rejected the client; None if it accepted the client."""
        if self._is_verified or any(isinstance(result, Issued) for _, result in results):
            return None
        for grant, result in results:
            if isinstance(result, Refused) and result.is_rejection:
                return grant, result
        return None

    def _leave(self, grants: Sequence[GrantSnapshot]) -> None:
        """What did not begin waits as Enable requested, or for the next run's time."""
        wait = self.backoffs.requested
        for grant in grants:
            outcome = grant.waiting(wait) if wait else grant.outcome(State.DEFERRED)
            self._outcomes.setdefault(grant.name, outcome)

    def _after_rejection(
        self,
        probe: GrantSnapshot,
        refused: Refused,
        results: _Results,
        rest: list[GrantSnapshot],
    ) -> list[GrantSnapshot]:
        """Look for a secret that Enable accepts; without one, the connection backs off.

        Returns:
            What is to be attempted again.
        """
        again, others = [], list(rest)
        for grant, result in results:
            if not (isinstance(result, Refused) and result.is_rejection):
                again += [grant] if self._settle(grant, result) else []
                continue
            self._made[grant.name] += result.error.attempts
            others += [grant] if grant is not probe else []
        if refused.error.reason == "invalid_client":
            match self._verify_fallback(probe):
                case True:
                    return [*again, *(self._round(others) if others else [])]
                case None:
                    self._leave([probe, *others])
                    return []
        wait, error = self.backoffs.after_rejection(probe, refused), refused.error
        for grant in (probe, *others):
            failed = grant.failed(error.reason, str(error), retry_at=wait.until)
            self._outcomes[grant.name] = failed
        return []

    def _verify_fallback(self, probe: GrantSnapshot) -> bool | None:
        """Use the first other version of the secret that Enable accepts, by one request each.

        Returns:
            Whether there is one; None if the time ends before.
        """
        for fallback in self._fallbacks:
            if self._deps.time_left() < TIME_TO_RENEW:
                return None
            self._secret = fallback
            match self._attempt(probe):
                case (Issued() | Refused(is_of_accepted_client=True)) as verified:
                    self._settle(probe, verified)
                    return True
                case Refused(error):
                    self._made[probe.name] += error.attempts
        return False

    def _attempt(self, grant: GrantSnapshot) -> Result:
        return attempt(grant, self._secret, self._policy, self._deps)

    def _settle(self, grant: GrantSnapshot, result: Result) -> bool:
        """Record a result; whether the grant is to be attempted again in this run."""
        match result:
            case Outcome():
                self._outcomes[grant.name] = result
                return False
            case Issued(outcome, attempts):
                self._made[grant.name] += attempts
                self._is_verified = True
                self._outcomes[grant.name] = outcome
                self.backoffs.after_issue(grant, outcome.expires_at)
                return False
            case Refused(error):
                self._made[grant.name] += error.attempts
                self._is_verified |= result.is_of_accepted_client
                wait = self.backoffs.after_refusal(grant, result)
                ends = wait.until if wait else None
                self._outcomes[grant.name] = grant.failed(error.reason, str(error), retry_at=ends)
                return isinstance(error, TokenEndpointUnavailable)
