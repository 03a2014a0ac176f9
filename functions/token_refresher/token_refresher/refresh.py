"""What is due, and having it renewed: every run reads what is stored, and decides from that."""

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from token_broker import expiry
from token_broker.errors import CorruptStoredToken, GrantBlocked
from token_broker.grants import Grant
from token_refresher.outcomes import Outcome, State
from token_refresher.refresh_request import RefreshRequest
from token_refresher.renewal import (
    UNREADABLE_CODES,
    ConnectionRun,
    Endpoint,
    Found,
    HoldStore,
    Secrets,
    TokenStore,
    Tools,
)

READS_AT_A_TIME: Final = 8

TIME_TO_OVERTAKE: Final = timedelta(seconds=35)
"""A run for a changed secret waits for no other run with less left: that one may be dead."""

CLOCK_DIFFERENCE: Final = timedelta(minutes=5)
"""A stored token of a later hour than that is no token: it would neither be due nor replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refresher:
    """Renews what is due.

    Attributes:
        grants: all grants, by name.
        endpoints: the token endpoints, by connection.
        store: where the tokens are kept.
        holds: where refusals are remembered.
        secrets: the client secrets.
        refresh_ahead: how long before its expiry a token is renewed, at most.
        parallelism: renewals at a time, for each connection.
        describe_fault: names a failure of AWS or of ours: (reason, cause).
        now: the clock, aware UTC.
        pause: waits for so many seconds.
    """

    grants: Mapping[str, Grant]
    endpoints: Mapping[str, Endpoint]
    store: TokenStore
    holds: HoldStore
    secrets: Secrets
    refresh_ahead: timedelta
    parallelism: int
    describe_fault: Callable[[Exception], tuple[str, str]]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    pause: Callable[[float], None] = time.sleep

    def run(
        self, request: RefreshRequest, *, time_left: Callable[[], timedelta]
    ) -> tuple[Outcome, ...]:
        """Renew what is due: connections side by side, the most urgent grants first.

        One grant's failure neither stops the others nor touches its stored token. A run for a
        changed secret waits until another one has ended, which may have used the old secret,
        and renews what that one has not.

        Args:
            request: which grants, and whether to force.
            time_left: what is left of the invocation.

        Returns:
            One outcome for each grant that the request is about, in its order.

        Raises:
            InvalidRequest: the request names a grant that does not exist.
        """
        outcomes = self._run(request, time_left, yields=not request.force)
        while request.changed_secret is not None and _is_underway(outcomes):
            self.pause(1)
            outcomes = self._run(request, time_left, yields=time_left() > TIME_TO_OVERTAKE)
        return outcomes

    def _run(
        self, request: RefreshRequest, time_left: Callable[[], timedelta], *, yields: bool
    ) -> tuple[Outcome, ...]:
        names = self._names(request)
        runs = {
            name: ConnectionRun(name, self._tools(name, time_left), force=request.force)
            for name in {self.grants[grant].connection for grant in names}
        }
        with ThreadPoolExecutor(READS_AT_A_TIME, thread_name_prefix="read") as threads:
            list(threads.map(ConnectionRun.look, runs.values()))
            read = list(threads.map(self._read, names))
        settled = {outcome.grant: outcome for outcome in read if isinstance(outcome, Outcome)}
        found = [_marked(item, request) for item in read if isinstance(item, Found)]
        candidates = [f for f in found if request.changed_secret or self._is_due(f, request)]
        settled |= {f.name: f.outcome(State.NOT_DUE) for f in found if f not in candidates}
        by_connection: dict[str, list[Found]] = {}
        for item in sorted(candidates, key=_urgency):
            by_connection.setdefault(item.grant.connection, []).append(item)

        def renew(connection: str) -> list[Outcome]:
            is_recheck = request.changed_secret is not None
            due = by_connection[connection]
            return runs[connection].renew(due, yields=yields, is_recheck=is_recheck)

        if by_connection:
            with ThreadPoolExecutor(len(by_connection), thread_name_prefix="connection") as threads:
                for outcomes in threads.map(renew, by_connection):
                    settled |= {outcome.grant: outcome for outcome in outcomes}
        return tuple(settled[name] for name in names)

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

    def _names(self, request: RefreshRequest) -> tuple[str, ...]:
        names = request.names(self.grants)
        if request.changed_secret is None:
            return names
        connection = self.secrets.connection_of(request.changed_secret)
        return tuple(name for name in names if self.grants[name].connection == connection)

    def _read(self, name: str) -> Found | Outcome:
        grant = self.grants[name]
        try:
            token = self.store.read(name)
        except GrantBlocked as block:
            return Found(name=name, grant=grant).blocked(block)
        except CorruptStoredToken:
            return Found(name=name, grant=grant, is_corrupt=True)
        except Exception as error:
            reason, cause = self.describe_fault(error)
            if reason in UNREADABLE_CODES:
                return Found(name=name, grant=grant, unreadable=cause)
            return Found(name=name, grant=grant).outcome(
                State.FAILED, reason=reason, cause=cause, is_store_read=False
            )
        if token and token.issued_at > self.now() + CLOCK_DIFFERENCE:
            return Found(name=name, grant=grant, is_corrupt=True, is_rejected=True)
        # A token for what the grant used to be is none for what it is now.
        is_for_this = token is not None and set(token.scope) == set(grant.scope)
        return Found(name=name, grant=grant, token=token if is_for_this else None)

    def _is_due(self, found: Found, request: RefreshRequest) -> bool:
        if request.force or found.token is None or found.is_rejected:
            return True
        return expiry.is_due(
            issued_at=found.token.issued_at,
            expires_at=found.token.expires_at,
            now=self.now(),
            refresh_ahead=self.refresh_ahead,
        )

    def _tools(self, connection: str, time_left: Callable[[], timedelta]) -> Tools:
        return Tools(
            store=self.store,
            holds=self.holds,
            secrets=self.secrets,
            endpoint=self.endpoints[connection],
            now=self.now,
            time_left=time_left,
            describe_fault=self.describe_fault,
            parallelism=self.parallelism,
        )


def _marked(found: Found, request: RefreshRequest) -> Found:
    is_rejected = found.token is not None and found.token.fingerprint == request.rejected
    return replace(found, is_rejected=True) if is_rejected else found


def _is_underway(outcomes: Iterable[Outcome]) -> bool:
    return any(outcome.state is State.UNDERWAY for outcome in outcomes)


def _urgency(found: Found) -> datetime:
    return found.token.expires_at if found.token else datetime.min.replace(tzinfo=UTC)
