"""One refresh run: it reads what is stored, selects what is to be renewed, and has it renewed."""

import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from token_broker import expiry
from token_broker.grants import Grant
from token_broker.models import Blocked, Stored
from token_refresher.dependencies import (
    Dependencies,
    Endpoint,
    Reader,
    Secrets,
    StateStore,
    TokenStore,
)
from token_refresher.due_grant import GrantSnapshot, renew_reason
from token_refresher.outcomes import Outcome, State
from token_refresher.policy import OnLease, Policy
from token_refresher.refresh_request import RefreshRequest
from token_refresher.renewal import ConnectionRenewal

TIME_TO_OVERTAKE: Final = timedelta(seconds=35)
"""A run that waits for another one goes on with less left: the other one may be dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refresher:
    """Renews what is due.

    Attributes:
        grants: all grants, by name.
        endpoints: the token endpoints, by connection.
        reader: reads the tokens and the states of the connections.
        store: where the tokens are stored.
        states: where the states of the connections are stored.
        secrets: the client secrets.
        refresh_ahead: how long before its expiry a token is renewed, at most.
        parallelism: requests at a time, for each connection.
        describe_fault: names a failure of AWS or of ours: (reason, cause).
        now: the clock, aware UTC.
        monotonic: seconds of a clock that is never set.
        pause: waits for so many seconds.
        jitter: a factor in [0, 1) for each wait before another attempt.
        threads: runs so many functions at a time.
    """

    grants: Mapping[str, Grant]
    endpoints: Mapping[str, Endpoint]
    reader: Reader
    store: TokenStore
    states: StateStore
    secrets: Secrets
    refresh_ahead: timedelta
    parallelism: int
    describe_fault: Callable[[Exception], tuple[str, str]]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random
    threads: Callable[[int], Executor] = ThreadPoolExecutor

    def run(
        self, request: RefreshRequest, *, time_left: Callable[[], timedelta]
    ) -> tuple[Outcome, ...]:
        """Renew what is due: connections side by side, the most urgent grants first.

        One grant's failure neither stops the others nor touches its stored token.

        Args:
            request: which grants, and by which policy.
            time_left: what is left of the invocation.

        Returns:
            One outcome for each grant that the request is about, in its order.

        Raises:
            InvalidRequest: the request names a grant that does not exist.
        """
        policy = request.policy
        outcomes = self._run(request, policy, time_left)
        while policy.on_lease is OnLease.WAIT and any(
            outcome.state is State.IN_PROGRESS for outcome in outcomes
        ):
            self.pause(1)
            if time_left() <= TIME_TO_OVERTAKE:
                policy = replace(policy, on_lease=OnLease.IGNORE)
            outcomes = self._run(request, policy, time_left)
        return outcomes

    def due_window_left(self, outcome: Outcome) -> float:
        """What is left of a token's due window, in percent.

        Returns:
            100 while the token is not due, then less, 0 once it has expired or if there is
            none.
        """
        if outcome.issued_at is None or outcome.expires_at is None:
            return 0.0
        window = expiry.due_window(outcome.expires_at - outcome.issued_at, self.refresh_ahead)
        share = (outcome.expires_at - self.now()) / window
        return round(100 * min(max(share, 0.0), 1.0), 1)

    def _run(
        self, request: RefreshRequest, policy: Policy, time_left: Callable[[], timedelta]
    ) -> tuple[Outcome, ...]:
        names = self._names(request)
        connections = dict.fromkeys(self.grants[grant].connection for grant in names)
        reading = self.reader.read(list(connections), names, threads=self.threads)
        renewals = {
            name: ConnectionRenewal(name, self._dependencies(name, time_left), policy, seen)
            for name, seen in reading.states.items()
        }
        outcomes: dict[str, Outcome] = {}
        due: dict[str, list[GrantSnapshot]] = {}
        for name in names:
            selected = self._select(self._snapshot(name, reading.stored[name]), request)
            if isinstance(selected, Outcome):
                outcomes[selected.grant] = selected
            else:
                due.setdefault(selected.grant.connection, []).append(selected)
        if due:
            with self.threads(len(due)) as threads:
                for renewed in threads.map(
                    lambda name: renewals[name].renew(sorted(due[name], key=_urgency)), due
                ):
                    outcomes |= {outcome.grant: outcome for outcome in renewed}
        return tuple(outcomes[name] for name in names)

    def _names(self, request: RefreshRequest) -> tuple[str, ...]:
        names = request.names(self.grants)
        if request.changed_secret is None:
            return names
        connection = self.secrets.connection_of(request.changed_secret)
        return tuple(name for name in names if self.grants[name].connection == connection)

    def _snapshot(self, name: str, stored: Stored | Exception) -> GrantSnapshot | Outcome:
        snapshot = GrantSnapshot(name=name, grant=self.grants[name])
        if isinstance(stored, Exception):
            return replace(snapshot.failed(*self.describe_fault(stored)), is_store_read=False)
        return replace(snapshot, stored=stored)

    def _select(
        self, item: GrantSnapshot | Outcome, request: RefreshRequest
    ) -> GrantSnapshot | Outcome:
        """What is to be renewed, with the reason; an outcome of all else."""
        match item:
            case Outcome():
                return item
            case GrantSnapshot(stored=Blocked() as block):
                return item.blocked(block)
        reason = renew_reason(item, request, now=self.now(), refresh_ahead=self.refresh_ahead)
        selected = replace(item, renew_reason=reason)
        return selected if reason else selected.outcome(State.NOT_DUE)

    def _dependencies(self, connection: str, time_left: Callable[[], timedelta]) -> Dependencies:
        return Dependencies(
            store=self.store,
            states=self.states,
            secrets=self.secrets,
            endpoint=self.endpoints[connection],
            describe_fault=self.describe_fault,
            parallelism=self.parallelism,
            now=self.now,
            time_left=time_left,
            monotonic=self.monotonic,
            pause=self.pause,
            jitter=self.jitter,
            threads=self.threads,
        )


def _urgency(snapshot: GrantSnapshot) -> datetime:
    return snapshot.token.expires_at if snapshot.token else datetime.min.replace(tzinfo=UTC)
