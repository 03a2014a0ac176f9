"""Decides from a soak's record alone whether the broker kept its promises.

Imports nothing of the broker. What it takes for granted is in docs/guarantees.md, each rule with
its bound: a token is due at half its lifetime; a run attempts a grant at most 4 times; a refused
grant waits for 55 seconds at least; a run that was killed has its lease for 55 seconds; what the
vend function has read may be a second old where it was no live token. Which requests a run makes
is not predicted; where two runs were at work at a time, neither is judged by its requests.

How long an interval of the schedule is, is never measured by the clock: two intervals have
passed when two refresh runs, one after the other, have ended.

    python -m tests.soak.checker RECORD.jsonl
"""

import bisect
import itertools
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tests.soak.record import read

type Entry = Mapping[str, Any]

INFINITY: Final = float("inf")
BACKOFF_SECONDS: Final = 55
LONGEST_BACKOFF_SECONDS: Final = 900
MOST_ATTEMPTS: Final = 4
SECRET_VERSIONS: Final = 3
LEASE_SECONDS: Final = 55
REREAD_SECONDS: Final = 2.0
"""The vend function may remember for a second that there was no live token; and a second's grace,
because it rounds nothing and we do."""

MARGIN: Final = 1.0
"""Seconds by which an event may be reported late or early: the record has the clock of one machine,
but several processes look at it."""

EVENT_SECONDS: Final = 10.0
"""A changed secret's event has its run begin within that."""

BLOCK_SECONDS: Final = 12
"""The vend function remembers a token for a tenth of its life, here at most 120 seconds."""

TOLERANCE: Final = 0.5
"""Seconds by which requests of one run, begun together, may follow one another."""

FORCED_SECONDS: Final = 60.0
"""A forced run, its two retries by the platform included, is over by then."""


# What each kind of fault may explain: the declared exceptions.

STOPS_RENEWAL: Final = frozenset(
    {
        "Enable fails",
        "Enable asks for patience",
        "Enable misbehaves or refuses a grant",
        "Enable refuses the client",
        "Enable is slow",
        "Enable stops and starts again",
        "the secret changes",
        "AWS fails the refresher",
        "the refresher is killed",
        "the connection's state is deleted",
    }
)
ASKED_NOTHING: Final = frozenset({"not_due", "in_progress", "waiting"})
"""The states of grants for which a run made no request."""
STOPS_VENDING: Final = frozenset({"AWS fails the vendor", "the vendor is killed"})
LEAVES_LEASE: Final = frozenset({"the refresher is killed"})
OVERWRITES: Final = frozenset(
    {"a token is deleted", "a token is corrupted", "an operator blocks a grant"}
)


@dataclass(frozen=True, slots=True)
class Span:
    """From one moment to another, in seconds since the epoch."""

    begin: float
    end: float

    def meets(self, begin: float, end: float) -> bool:
        """Whether they have a moment in common."""
        return self.begin <= end and begin <= self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is stored for a grant from one moment to the next change.

    Attributes:
        seen: when it was certainly there.
        begin: when it came about: reported by Parameter Store for a token, else the fault's begin.
    """

    begin: float
    seen: float
    end: float = INFINITY
    token: Entry | None = None

    def is_live(self, moment: float) -> bool:
        """Whether it is a token that lives then."""
        return self.token is not None and moment < self.token["expires_at"]

    @property
    def due_at(self) -> float:
        """From when on it is to be renewed."""
        if self.token is None:
            return -INFINITY
        return self.token["expires_at"] - (self.token["expires_at"] - self.token["issued_at"]) / 2


@dataclass
class Report:
    """What was found.

    Attributes:
        violations: each a sentence that begins with its rule.
        counts: by what is counted.
        faults: how many were injected, by kind.
        rules: how often each rule had something to decide.
    """

    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)

    @property
    def is_conclusive(self) -> bool:
        """Whether there was anything to decide for every rule."""
        return all(self.rules[rule] for rule in RULES)

    def text(self) -> str:
        """Tables for people, and the violations."""
        lines = ["", "| what | count |", "| --- | ---: |"]
        lines += [f"| {name} | {count:,} |" for name, count in self.counts.items()]
        lines += ["", "| faults injected | count |", "| --- | ---: |"]
        lines += [f"| {name} | {count} |" for name, count in sorted(self.faults.items())]
        lines += [f"| all | {self.faults.total()} |"]
        lines += ["", "| rule | decided | violations |", "| --- | ---: | ---: |"]
        for rule, what in RULES.items():
            broken = sum(violation.startswith(f"{rule}:") for violation in self.violations)
            lines.append(f"| {what} | {self.rules[rule]:,} | {broken} |")
        lines += ["", *(f"VIOLATION {violation}" for violation in self.violations)]
        if missing := [rule for rule in RULES if not self.rules[rule]]:
            lines.append(f"nothing to decide for: {', '.join(missing)}")
        lines.append(f"{len(self.violations)} violations")
        return "\n".join(lines)


RULES: Final = {
    "expired": "no expired token was vended, or handed out by the client library",
    "scope": "no token for another scope",
    "caller": "no caller without permission got one, no caller with permission was refused",
    "available": "no 5xx while a live token existed",
    "kept": "the old token survived every failed renewal",
    "recovered": "everything recovered within two schedule intervals",
    "requests": "each request to Enable had a reason, and each token was stored",
    "lease": "no two requests for one grant at a time",
    "backoff": "no request within 55 seconds of a refusal",
    "retry_after": "no request before the time that Retry-After names",
    "attempts": "at most 4 attempts for a grant in a run, 3 if the client is refused",
    "forced": "a forced renewal asked Enable",
    "blocked": "a block stayed, and nothing was vended",
}


def check(entries: Iterable[Entry]) -> Report:
    """Decide.

    Raises:
        ValueError: the record does not begin with a header: there is nothing to decide from.
    """
    return _Checker(list(entries)).check()


class _Checker:
    def __init__(self, entries: list[Entry]) -> None:
        by_kind: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            by_kind[entry["kind"]].append(entry)
        if not by_kind["header"]:
            raise ValueError("the record has no header: the soak did not begin")
        [header] = by_kind["header"]
        ends = [entry["at"] for entry in by_kind["end"]]
        self.begin: float = header["at"]
        self.end: float = ends[0] if ends else max(_moment(entry) for entry in entries)
        self.scopes: Mapping[str, str] = header["grants"]
        self.callers: Mapping[str, Entry] = header["callers"]
        self.report = Report()
        self.requests = [r for r in by_kind["request"] if r["until"] <= self.end]
        self.uses = [u for u in by_kind["use"] if u["until"] <= self.end]
        self.asked = sorted(
            (r for r in by_kind["token_request"] if r["at"] <= self.end), key=lambda r: r["at"]
        )
        self.faults = sorted(by_kind["fault"], key=lambda fault: fault["begin"])
        self.rows = {fault["number"]: fault for fault in self.faults if "backoff" in fault}
        self.runs = sorted(by_kind["run"], key=lambda run: run["begin"])
        self.slow = [Span(entry["at"], entry["until"]) for entry in by_kind["slow"]]
        self.issued = {r["fingerprint"]: r for r in self.asked if r.get("fingerprint")}
        self.grant_of = {scope: grant for grant, scope in self.scopes.items()}
        self.states = {grant: self._states(grant, by_kind["stored"]) for grant in self.scopes}
        self.refused_at: dict[str, float] = {}
        for use in self.uses:
            if use["status"] == 401:
                self.refused_at.setdefault(use["fingerprint"], use["at"])

    def check(self) -> Report:
        """Apply every rule."""
        for request in self.requests:
            if request["method"] == "GET":
                self._check_caller(request)
                self._check_vended(request)
            self._check_available(request)
        for use in self.uses:
            self._check_used(use)
        for grant in self.scopes:
            self._check_kept(grant)
            self._check_recovered(grant)
            self._check_requests(grant)
        self._check_patience()
        self._check_attempts()
        self._check_forced()
        self._check_blocked()
        self._count()
        return self.report

    # ── What callers got ─────────────────────────────────────────────────────────────────────

    def _check_caller(self, request: Entry) -> None:
        expects, status = self.callers[request["caller"]]["expects"], request["status"]
        self.report.rules["caller"] += 1
        if status is None or (status >= 500 and expects != "iam"):
            return  # nothing was stated; see `available`
        if expects == "token":
            if status not in {200, 429}:
                self._violation("caller", request, f"who may have the token, got {status}")
        elif status != 403:
            self._violation("caller", request, f"refused by {expects}, got {status} instead of 403")

    def _check_vended(self, request: Entry) -> None:
        if request["status"] != 200:
            return
        self.report.rules["expired"] += 1
        self.report.rules["scope"] += 1
        name, exp = request["fingerprint"], request["exp"]
        issued = self.issued.get(name)
        if issued is None:
            self._violation("scope", request, f"got {name}, which Enable never issued")
            return
        if exp <= request["at"]:
            self._violation("expired", request, f"got {name} {request['at'] - exp:.1f} s too late")
        if request["expires_in"] > exp - request["at"] + 1:
            self._violation("expired", request, f"was promised too much of {name}")
        scope = self.scopes[request["grant"]]
        if {request["scope"], issued["scope"], " ".join(sorted(request["told_scope"].split()))} != {
            scope
        }:
            self._violation("scope", request, f"got {name}, which is for {request['scope']}")

    def _check_used(self, use: Entry) -> None:
        self.report.rules["expired"] += 1
        if use["exp"] is None or use["exp"] <= use["asked_at"]:
            self._violation("expired", use, f"was handed {use['fingerprint']} by the library")

    def _check_available(self, request: Entry) -> None:
        """A 5xx is a violation if the store held a live token from before the request until after.

        Excused, and counted: the vend function's environment was killed, or its reads failed.
        """
        is_answered = request["status"] is not None and request["status"] < 500
        begin, end = request["at"] - REREAD_SECONDS, request["until"] + MARGIN
        if not self._is_readable(request["grant"], begin, end, request["other_than"]):
            if not is_answered:
                self.report.counts["5xx for want of a live token"] += 1
            return
        self.report.rules["available"] += 1
        if is_answered:
            return
        if self._faults_at(
            request["at"], request["until"], lambda fault: fault["name"] in STOPS_VENDING, after=0
        ):
            self.report.counts[
                "5xx excused: the vend function was killed or kept from reading"
            ] += 1
        elif request["status"] is None or self._is_slow(request["at"], request["until"]):
            self.report.counts["5xx excused: the machine was too slow"] += 1
        else:
            self._violation("available", request, f"got {request['status']}, and a token lived")

    def _is_slow(self, begin: float, end: float) -> bool:
        return any(span.meets(begin, end) for span in self.slow)

    def _is_readable(self, grant: str, begin: float, end: float, other_than: str) -> bool:
        states = [s for s in self.states[grant] if s.begin <= end and begin < s.end]
        if not states or states[0].begin > begin or states[0].seen > begin + REREAD_SECONDS:
            return False
        return all(
            state.is_live(min(state.end, end))
            and state.token is not None
            and state.token["fingerprint"] != other_than
            for state in states
        )

    # ── What is stored ───────────────────────────────────────────────────────────────────────

    def _states(self, grant: str, stored: Sequence[Entry]) -> list[State]:
        """The grant's history; where a token was taken away, from the fault's begin on."""
        mine = [e for e in stored if e["grant"] == grant and e["seen"] <= self.end]
        states: list[State] = []
        for entry in mine:
            token = entry if entry["state"] == "token" else None
            begin = entry["at"] if entry["at"] is not None else entry["seen"]
            if token is None:
                begin = self._taken_at(grant, entry["seen"], begin)
            state = State(begin=begin, seen=entry["seen"], token=token)
            if states:
                states[-1] = replace(states[-1], end=begin)
            states.append(state)
        # A deletion that the next token followed before anybody looked leaves no state of its own.
        for fault in self.faults:
            if fault["name"] == "a token is deleted" and grant in fault["grants"]:
                states = [_cut(state, _span(fault)) for state in states]
        return states

    def _taken_at(self, grant: str, seen: float, begin: float) -> float:
        deeds = [
            fault["begin"]
            for fault in self.faults
            if _overwrites(fault, grant) and fault["begin"] <= seen + MARGIN
        ]
        return max(deeds, default=begin)

    def _state_at(self, grant: str, moment: float) -> State | None:
        states = self.states[grant]
        at = bisect.bisect_right([state.begin for state in states], moment) - 1
        return states[at] if at >= 0 else None

    def _check_kept(self, grant: str) -> None:
        """A token gives way only to one that Enable issued for this grant, and that ends later."""
        states = self.states[grant]
        for old, new in itertools.pairwise(states):
            self.report.rules["kept"] += 1
            if new.token is None:
                self._check_taken(grant, old, new)
            else:
                self._check_successor(grant, old, new)
        for request in self.asked:
            if request["scope"] == self.scopes[grant] and request["status"] != 200:
                before = self._state_at(grant, request["at"])
                if before and before.is_live(request["until"]):
                    self.report.counts["failed requests to Enable that the old token survived"] += 1

    def _check_successor(self, grant: str, old: State, new: State) -> None:
        token = new.token or {}
        name = token["fingerprint"]
        issued = self.issued.get(name)
        if issued is None or issued["scope"] != self.scopes[grant]:
            self._violation("kept", token, f"{grant}: {name} is not Enable's for it")
        elif token["expires_at"] > issued["exp"]:
            self._violation("kept", token, f"{grant}: {name} is stored beyond its end")
        elif (
            old.token
            and old.end == new.begin
            and token["expires_at"] < old.token["expires_at"]
            and old.is_live(new.begin)
            and not self._may_be_shortened(grant, old, new.begin)
        ):
            self._violation("kept", token, f"{grant}: {name} ends before the old one")

    def _check_taken(self, grant: str, old: State, new: State) -> None:
        if old.token and not self._faults_at(
            old.begin, new.seen, lambda fault: _overwrites(fault, grant)
        ):
            self._violation("kept", {"at": new.seen}, f"{grant}: the stored token is gone")

    def _may_be_shortened(self, grant: str, old: State, moment: float) -> bool:
        """Enable refused the old token, a run was forced, or a write's response was lost.

        Parameter Store has no conditional write: one that is tried again for a lost response may
        come after another run's, which is put back then.
        """
        if old.token and self.refused_at.get(old.token["fingerprint"], INFINITY) <= moment:
            return True
        return (
            self._is_slow(moment - EVENT_SECONDS, moment)
            or self._is_forced(grant, moment, moment)
            or self._faults_at(moment, moment, lambda fault: fault.get("on") == "TOKEN_WRITE")
        )

    def _is_forced(self, grant: str, begin: float, end: float) -> bool:
        """Whether somebody forced this grant's renewal about then."""
        return self._faults_at(
            begin,
            end,
            lambda fault: fault.get("forced") and grant in fault["grants"],
            after=FORCED_SECONDS,
        )

    # ── Recovery ─────────────────────────────────────────────────────────────────────────────

    def _check_recovered(self, grant: str) -> None:
        """In a time without faults and waits, two runs one after the other renew what is due."""
        for clear in self._clear(grant):
            runs = [
                run
                for run in self.runs
                if len(run["grants"]) == len(self.scopes) and clear.begin <= run["begin"]
            ]
            for first, second in _in_sequence(runs):
                if second["end"] > clear.end:
                    break
                self.report.rules["recovered"] += 1
                if self._is_overdue(grant, first["begin"], second["end"]):
                    self._violation(
                        "recovered", {"at": second["end"]}, f"{grant}: not renewed by two runs"
                    )
                    break

    def _is_overdue(self, grant: str, begin: float, end: float) -> bool:
        """Whether it had to be renewed at the begin, and nothing newer came until the end."""
        state = self._state_at(grant, begin)
        if state is None:
            return self._state_at(grant, end) is None
        if state.end <= end + MARGIN or state.due_at + MARGIN > begin:
            return False
        return not any(
            request["status"] == 200
            and request["scope"] == self.scopes[grant]
            and begin <= request["at"] <= end
            and state.is_live(_visible_end(request))  # what is stored ends no earlier, so it stays
            for request in self.asked
        )

    def _clear(self, grant: str) -> Iterator[Span]:
        """When nothing that is known keeps a grant from being renewed."""
        at = self.begin
        for span in sorted(self._blocked(grant), key=lambda span: span.begin):
            if span.begin > at:
                yield Span(at, span.begin)
            at = max(at, span.end)
        if at < self.end:
            yield Span(at, self.end)

    def _blocked(self, grant: str) -> Iterator[Span]:
        for fault in self.faults:
            if _overwrites(fault, grant):
                # What a run has read before is what it goes by.
                yield self._with_runs(_span(fault))
            if fault["name"] in STOPS_RENEWAL:
                after = EVENT_SECONDS if fault["name"] == "the secret changes" else 0
                yield self._with_runs(_span(fault, after=after))
            if fault["name"] in LEAVES_LEASE or fault.get("on") == "STATE_WRITE":
                yield _span(fault, after=LEASE_SECONDS + MARGIN)
        yield from (self._with_runs(span) for span in self.slow)
        yield from self._backoffs(grant)

    def _with_runs(self, span: Span) -> Span:
        """Until the end of what was under way when it ended."""
        ends = [run["end"] for run in self.runs if run["begin"] <= span.end <= run["end"]]
        return Span(span.begin, max([span.end, *ends]))

    def _backoffs(self, grant: str) -> Iterator[Span]:
        """How long at most the broker may wait after each refusal; a changed secret ends that."""
        in_a_row, last_rejection = Counter[str](), -INFINITY
        for request in self.asked:
            kind, is_mine = self._backoff_of(request), request["scope"] == self.scopes[grant]
            if kind == "asked":
                yield _wait(request, self._held_seconds(request))
            elif kind == "issued":
                del in_a_row["connection"]
                if is_mine:
                    del in_a_row["grant"]
            elif kind == "connection" or (kind == "grant" and is_mine):
                # A run asks with each version of the secret, and counts that once.
                is_same_run = request["at"] - last_rejection <= EVENT_SECONDS
                in_a_row[kind] += kind == "grant" or not is_same_run
                if kind == "connection":
                    last_rejection = request["at"]
                seconds = BACKOFF_SECONDS * 2.0 ** (in_a_row[kind] - 1)
                wait = _wait(request, min(seconds, LONGEST_BACKOFF_SECONDS))
                yield self._until_change(wait)

    def _until_change(self, wait: Span) -> Span:
        """A wait, until a secret that changes after its begin has had its event."""
        ends = [
            change["end"] + EVENT_SECONDS
            for change in self.faults
            if change["name"] == "the secret changes"
            and wait.begin <= change["end" if change["what"] == "Enable first" else "begin"]
        ]
        return Span(wait.begin, min([wait.end, *ends]))

    def _backoff_of(self, request: Entry) -> str:
        if request["status"] == 200:
            return "issued"
        if fault := self.rows.get(request["fault"]):
            backoff: str = fault["backoff"]
            return backoff
        return "connection" if request["status"] == 401 else "none"

    def _held_seconds(self, request: Entry) -> float:
        seconds: float = self.rows[request["fault"]]["held_seconds"]
        return seconds

    # ── Requests to Enable ───────────────────────────────────────────────────────────────────

    def _check_requests(self, grant: str) -> None:
        """Each token issued had a reason and was stored; each failure had a fault."""
        stored = {s.token["fingerprint"] for s in self.states[grant] if s.token}
        mine = [r for r in self.asked if r["scope"] == self.scopes[grant]]
        for request in mine:
            self.report.rules["requests"] += 1
            if request["status"] != 200:
                if request["fault"] is None and not self._is_explained(request):
                    self._violation("requests", request, f"{grant}: failed without a fault")
                continue
            if request["fingerprint"] not in stored and not self._may_be_lost(grant, request):
                self._violation("requests", request, f"{grant}: the token was not stored")
            if not self._has_reason(grant, request):
                self._violation("requests", request, f"{grant}: nothing was due")
        for first, second in itertools.pairwise(mine):
            self._check_alone(grant, first, second)
            if self._backoff_of(first) == "grant":
                self._check_backoff(grant, first, second)

    def _has_reason(self, grant: str, request: Entry) -> bool:
        """What was stored when the run looked: an order, or a change from outside the broker."""
        at = request["at"]
        looked_at = min([at, *(run["begin"] for run in self._runs_at(at, at))]) - MARGIN
        states = [s for s in self.states[grant] if s.begin <= at and looked_at < s.end]
        return (
            not states
            or any(
                state.token is None
                or state.due_at - MARGIN <= at
                or self.refused_at.get(state.token["fingerprint"], INFINITY) <= at
                for state in states
            )
            or self._is_forced(grant, at, at)
            or self._is_met(
                at,
                at,
                lambda fault: fault["name"] == "the secret changes" or _overwrites(fault, grant),
                after=EVENT_SECONDS,
            )
        )

    def _may_be_lost(self, grant: str, request: Entry) -> bool:
        """What is stored ends no earlier, or the run was killed, kept from writing or still on."""
        before = self._state_at(grant, request["at"])
        if before and before.is_live(_visible_end(request) - MARGIN):
            return True
        if request["until"] + EVENT_SECONDS > self.end:
            return True
        return self._is_met(
            request["at"],
            request["until"] + EVENT_SECONDS,
            lambda fault: (
                fault["name"] == "the refresher is killed"
                or fault.get("on") == "TOKEN_WRITE"
                or _overwrites(fault, grant)
            ),
        )

    def _is_explained(self, request: Entry) -> bool:
        """Whether a change of the secret, or a stop, made Enable itself refuse."""
        names = {401: "the secret changes", None: "Enable stops and starts again"}
        name = names.get(request["status"])
        return self._is_met(request["at"], request["until"], lambda fault: fault["name"] == name)

    def _check_alone(self, grant: str, first: Entry, second: Entry) -> None:
        """The lease: a request begins when the one before has its response."""
        self.report.rules["lease"] += 1
        if None in {first["status"], second["status"]} or first["until"] <= second["at"]:
            return
        if not self._is_forced(grant, first["at"], second["at"]) and not self._is_met(
            first["at"], second["at"], _hides_lease, after=EVENT_SECONDS
        ):
            self._violation("lease", second, f"{grant}: two requests at a time")

    def _check_backoff(self, grant: str, refused: Entry, again: Entry) -> None:
        """A refused grant waits, but for an order, and if its run alone was at work."""
        run = self._run_alone(refused)
        is_ordered = any(
            len(other["grants"]) < len(self.scopes)
            for other in self._runs_at(again["at"], again["at"])
        )
        if run is None or is_ordered:
            return
        self.report.rules["backoff"] += 1
        if again["at"] < refused["until"] + BACKOFF_SECONDS - MARGIN and not self._is_met(
            refused["at"], again["at"], _hides_backoff
        ):
            self._violation("backoff", again, f"{grant}: again {_after(refused, again)}")

    def _check_patience(self) -> None:
        """A run, if it alone is at work, waits as long as a Retry-After says."""
        for busy in self.asked:
            run = self._run_alone(busy) if self._backoff_of(busy) == "asked" else None
            if run is None or self._is_met(busy["at"], run["end"], lambda _: False):
                continue
            self.report.rules["retry_after"] += 1
            ends = busy["until"] + self._held_seconds(busy)
            for request in self.asked:
                if busy["until"] + TOLERANCE < request["at"] < min(ends - TOLERANCE, run["end"]):
                    self._violation("retry_after", request, f"again {_after(busy, request)}")

    def _check_attempts(self) -> None:
        """A run requests 4 times for a grant at most; 3 times in all if the client is refused."""
        for fault in self.rows.values():
            span = _span(fault, before=MARGIN, after=MARGIN)
            failed = Counter(r["scope"] for r in self.asked if r["fault"] == fault["number"])
            if not failed or span.end > self.end or self._is_slow(span.begin, span.end):
                continue
            self.report.rules["attempts"] += 1
            asked, most = max(failed.values()), MOST_ATTEMPTS
            if fault["backoff"] == "connection":
                asked, most = failed.total(), SECRET_VERSIONS
            most *= len(self._runs_at(span.begin, span.end))
            if asked > most:
                self._violation("attempts", fault, f"asked {asked} times, at most {most}")

    def _check_forced(self) -> None:
        """An order to renew one grant has a run ask for it."""
        for fault in self.faults:
            if not fault.get("forced") or len(fault["grants"]) > 1:
                continue
            [grant] = fault["grants"]
            runs = [
                run
                for run in self._runs_at(fault["begin"], fault["begin"] + FORCED_SECONDS)
                if set(run["grants"]) == {grant} and run["begin"] > fault["begin"] - MARGIN
            ]
            if not runs or self._is_met(fault["begin"], runs[0]["end"], _hides_order):
                continue
            self.report.rules["forced"] += 1
            if not any(
                request["scope"] == self.scopes[grant]
                and run["begin"] - MARGIN <= request["at"] <= run["end"] + MARGIN
                for run in runs
                for request in self.asked
            ):
                self._violation("forced", fault, f"{grant}: nothing was asked")

    def _check_blocked(self) -> None:
        """A block stays, ends requests, and vending within a tenth of the longest lifetime."""
        for fault in self.faults:
            if fault["name"] != "an operator blocks a grant" or fault["ending"] > self.end:
                continue
            [grant], ends = fault["grants"], fault["ending"]
            self.report.rules["blocked"] += 1
            state = self._state_at(grant, ends - MARGIN)
            if state and state.token and not self._is_slow(fault["begin"], ends):
                self._violation("blocked", fault, f"{grant}: a token is in the block's place")
            for request in self.requests:
                if (
                    (request["grant"], request["status"], request["method"]) == (grant, 200, "GET")
                    and fault["begun"] + BLOCK_SECONDS + MARGIN < request["at"]
                    and request["until"] < ends
                ):
                    self._violation("blocked", request, "got a token of a blocked grant")
            for request in self.asked:
                if request["scope"] == self.scopes[grant] and self._is_after_block(request, fault):
                    self._violation("blocked", request, f"{grant}: asked for, though blocked")

    def _is_after_block(self, request: Entry, block: Entry) -> bool:
        """Whether all runs that may have made a request began when a block could be read."""
        runs = self._runs_at(request["at"], request["at"])
        return (
            bool(runs)
            and all(run["begin"] > block["begun"] + MARGIN for run in runs)
            and request["at"] < block["ending"] - MARGIN
            and not self._is_met(block["begun"], request["at"], _hides_backoff)
        )

    def _is_met(
        self, begin: float, end: float, kind: Callable[[Entry], bool], *, after: float = MARGIN
    ) -> bool:
        """Whether such a fault, or a machine that was too slow, was there in this time."""
        return self._is_slow(begin, end) or self._faults_at(begin, end, kind, after=after)

    def _faults_at(
        self, begin: float, end: float, kind: Callable[[Entry], object], *, after: float = MARGIN
    ) -> bool:
        return any(
            kind(fault) and _span(fault, before=min(after, MARGIN), after=after).meets(begin, end)
            for fault in self.faults
        )

    def _runs_at(self, begin: float, end: float) -> list[Entry]:
        return [r for r in self.runs if r["begin"] - MARGIN <= end and begin <= r["end"] + MARGIN]

    def _run_alone(self, request: Entry) -> Entry | None:
        """The run that made a request; None if others were at work beside it."""
        runs = self._asking_at(request["at"], request["until"])
        if len(runs) != 1:
            return None
        [run] = runs
        return run if len(self._asking_at(run["begin"], run["end"])) == 1 else None

    def _asking_at(self, begin: float, end: float) -> list[Entry]:
        """The runs that may have made a request; of one that was killed no state is known."""
        return [
            run
            for run in self._runs_at(begin, end)
            if not run["grants"] or not ASKED_NOTHING.issuperset(run["grants"].values())
        ]

    # ── Counts ───────────────────────────────────────────────────────────────────────────────

    def _count(self) -> None:
        counts, requests = Counter[str](), self.requests
        counts["seconds soaked"] = int(self.end - self.begin)
        counts["callers"] = len(self.callers)
        counts["callers' requests to the token API"] = len(requests)
        counts["tokens vended"] = sum(request["status"] == 200 for request in requests)
        for who in ("iam", "callers"):
            counts[f"requests refused by {who}"] = sum(
                request["status"] == 403
                for request in requests
                if self.callers[request["caller"]]["expects"] == who
            )
        counts["tokens used at Enable's API"] = len(self.uses)
        counts["of these, accepted"] = sum(use["status"] == 200 for use in self.uses)
        counts["spells in which the machine was too slow"] = len(self.slow)
        counts["refresh runs"] = len(self.runs)
        counts["requests to the token endpoint"] = len(self.asked)
        counts["of these, failed"] = sum(request["status"] != 200 for request in self.asked)
        counts["renewals stored"] = sum(
            state.token is not None for states in self.states.values() for state in states
        )
        counts["AWS's responses to the functions replaced by a fault"] = sum(
            fault.get("fired", 0) for fault in self.faults
        )
        counts["function environments killed"] = sum(f.get("killed", 0) for f in self.faults)
        self.report.counts = counts + self.report.counts
        self.report.faults.update(fault["name"] for fault in self.faults)

    def _violation(self, rule: str, entry: Entry, what: str) -> None:
        at = entry.get("at") or entry.get("begin") or self.begin
        who = f"{entry['caller']}, " if "caller" in entry else ""
        self.report.violations.append(f"{rule}: at {at - self.begin:.1f} s, {who}{what}")


def _moment(entry: Entry) -> float:
    return max(entry.get(name) or 0 for name in ("at", "until", "end", "seen"))


def _span(fault: Entry, *, before: float = 0, after: float = 0) -> Span:
    return Span(fault["begin"] - before, fault["end"] + after)


def _overwrites(fault: Entry, grant: str) -> bool:
    """Whether it puts something in the place of this grant's token."""
    return fault["name"] in OVERWRITES and grant in fault["grants"]


def _hides_state(fault: Entry) -> bool:
    """Whether it keeps runs from what they tell each other."""
    return (
        str(fault.get("on")).startswith("STATE")
        or fault["name"] == "the connection's state is deleted"
    )


def _hides_lease(fault: Entry) -> bool:
    return _hides_state(fault) or fault["name"] in {"the refresher is killed", "the secret changes"}


def _hides_backoff(fault: Entry) -> bool:
    return _hides_lease(fault) or fault["name"] == "AWS fails the refresher"


def _hides_order(fault: Entry) -> bool:
    return _hides_backoff(fault) or fault["name"] in OVERWRITES


def _after(first: Entry, second: Entry) -> str:
    return f"{second['at'] - first['until']:.1f} s after it was refused"


def _wait(refused: Entry, seconds: float) -> Span:
    return Span(refused["at"], refused["until"] + seconds + MARGIN)


def _cut(state: State, deletion: Span) -> State:
    """The state, which a deletion within it ended."""
    is_within = state.begin < deletion.begin < state.end
    return replace(state, end=deletion.begin) if is_within else state


def _visible_end(request: Entry) -> float:
    """When an issued token ends for the broker, at the earliest."""
    end: float = min(request["at"] - MARGIN + request["lifetime"], request["exp"])
    return end


def _in_sequence(runs: Sequence[Entry]) -> Iterator[tuple[Entry, Entry]]:
    """Each run with the first one that began after its end."""
    for at, first in enumerate(runs):
        second = next((run for run in runs[at + 1 :] if run["begin"] >= first["end"]), None)
        if second is not None:
            yield first, second


def main(arguments: Sequence[str]) -> int:
    """Judge a file; 0, or 1 if a promise was not kept, or 2 if it cannot be judged."""
    if len(arguments) != 1:
        print("usage: python -m tests.soak.checker RECORD.jsonl", file=sys.stderr)  # noqa: T201
        return 2
    try:
        result = check(read(Path(arguments[0])))
    except (OSError, ValueError) as error:
        print(f"{arguments[0]} is no record of a soak: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print(result.text())  # noqa: T201
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
