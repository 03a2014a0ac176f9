"""Decides from a soak's record alone whether the broker kept its promises.

Imports nothing of the broker. What it takes for granted is in docs/: a token is due at half its
lifetime; a run tries a passing failure at most 4 times; a refusal is not repeated for about 1, 2,
4, 8 and then 15 minutes, but where the client is refused, a token with less than two minutes left
is asked for each time that half of what was left has gone by; a run that was killed is taken for
running for 55 seconds; what the vend function has read may be a second old where it was no live
token.

How long an interval of the schedule is, is never measured by the clock: two intervals have
passed when two refresh runs, one after the other, have ended.

    python -m tests.soak.checker RECORD.jsonl
"""

import bisect
import itertools
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.soak.record import read

type Entry = Mapping[str, Any]

INFINITY: Final = float("inf")
BACKOFF_SECONDS: Final = 55
LONGEST_BACKOFF_SECONDS: Final = 900
LEASE_SECONDS: Final = 55
FINAL_RETRY_SECONDS: Final = 120
REREAD_SECONDS: Final = 2.0
"""The vend function may remember for a second that there was no live token; and a second's grace,
because it rounds nothing and we do."""

MARGIN: Final = 1.0
"""Seconds by which an event may be reported late or early: the record has the clock of one machine,
but several processes look at it."""

EVENT_SECONDS: Final = 10.0
"""A changed secret's event has its run begin within that."""

FORCED_TRIES: Final = 3
FORCED_SECONDS: Final = 60.0
"""A forced run, its two retries by the platform included, is over by then."""


# What each kind of fault may explain: the declared exceptions.

STOPS_RENEWAL: Final = frozenset(
    {
        "Enable fails",
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
STOPS_VENDING: Final = frozenset({"AWS fails the vendor", "the vendor is killed"})
LEAVES_LEASE: Final = frozenset({"the refresher is killed"})
OVERWRITES: Final = frozenset({"a token is deleted", "a token is corrupted"})


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
        number: of the state, in the order of time.
        seen: when it was certainly there.
        begin: when it came about: reported by Parameter Store for a token, else the fault's begin.
    """

    number: int
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
    "requests": "exactly the expected requests to Enable",
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
            self._check_issued(grant)
        self._check_failed_requests()
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
        if any(
            fault["name"] in STOPS_VENDING and _span(fault).meets(request["at"], request["until"])
            for fault in self.faults
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
            state = State(number=len(states), begin=begin, seen=entry["seen"], token=token)
            if states:
                states[-1] = _ended(states[-1], begin)
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
            if fault["name"] in OVERWRITES
            and grant in fault["grants"]
            and fault["begin"] <= seen + MARGIN
        ]
        return max([*deeds, -INFINITY]) if deeds else begin

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
        is_ours = any(
            fault["name"] in OVERWRITES
            and grant in fault["grants"]
            and fault["begin"] - MARGIN <= new.seen
            and old.begin <= fault["end"] + MARGIN
            for fault in self.faults
        )
        if old.token and not is_ours:
            self._violation("kept", {"at": new.seen}, f"{grant}: the stored token is gone")

    def _may_be_shortened(self, grant: str, old: State, moment: float) -> bool:
        """Enable refused the old token, a run was forced, or a write's response was lost.

        Parameter Store has no conditional write: one that is tried again for a lost response may
        come after another run's, which is put back then.
        """
        if old.token and self.refused_at.get(old.token["fingerprint"], INFINITY) <= moment:
            return True
        is_retried = any(
            fault.get("on") == "TOKEN_WRITE" and _span(fault, after=MARGIN).meets(moment, moment)
            for fault in self.faults
        )
        is_slow = self._is_slow(moment - EVENT_SECONDS, moment)
        return is_retried or is_slow or any(self._forced(grant, moment, moment))

    def _forced(self, grant: str, begin: float, end: float) -> Iterator[Entry]:
        """The faults with which somebody forced this grant's renewal about then."""
        for fault in self.faults:
            is_forced = fault.get("forced") and grant in fault["grants"]
            if is_forced and _span(fault, after=FORCED_SECONDS).meets(begin, end):
                yield fault

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
            if fault["name"] in OVERWRITES and grant in fault["grants"]:
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
        changes = [
            (change["end" if change["what"] == "Enable first" else "begin"], change["end"])
            for change in self.faults
            if change["name"] == "the secret changes"
        ]
        for span, depends_on_secret in self._waits(grant):
            ends = [end for stored, end in changes if depends_on_secret and span.begin <= stored]
            yield Span(span.begin, min([span.end, *(end + EVENT_SECONDS for end in ends)]))

    def _waits(self, grant: str) -> Iterator[tuple[Span, bool]]:
        in_a_row, connection_in_a_row, last_rejection = 0, 0, -INFINITY
        for request in self.asked:
            backoff = self._backoff_of(request)
            is_mine = request["scope"] == self.scopes[grant]
            if backoff == "issued":
                connection_in_a_row = 0
                in_a_row = 0 if is_mine else in_a_row
            elif backoff == "asked":
                seconds = self._fault_of(request)["held_seconds"]
                yield Span(request["at"], request["until"] + seconds + MARGIN), False
            elif backoff in {"grant", "connection"}:
                if is_mine:
                    in_a_row += 1
                    yield _hold(request, in_a_row), True
                if backoff == "connection":
                    # A run asks with each version of the secret, and counts that once.
                    connection_in_a_row += request["at"] - last_rejection > EVENT_SECONDS
                    last_rejection = request["at"]
                    yield _hold(request, connection_in_a_row), True

    def _backoff_of(self, request: Entry) -> str:
        if request["status"] == 200:
            return "issued"
        if request["fault"] is not None:
            backoff: str = self._fault_of(request)["backoff"]
            return backoff
        return "connection" if request["status"] == 401 else "none"

    def _fault_of(self, request: Entry) -> Entry:
        [fault] = [fault for fault in self.faults if fault["number"] == request["fault"]] or [
            {"backoff": "none", "held_seconds": 0, "attempts": 4}
        ]
        return fault

    # ── Requests to Enable ───────────────────────────────────────────────────────────────────

    def _check_issued(self, grant: str) -> None:
        """Each token issued was due, and once only, or a fault explains it."""
        stored = {s.token["fingerprint"] for s in self.states[grant] if s.token}
        used: dict[tuple[object, ...], Entry] = {}
        for request in self.asked:
            if request["scope"] != self.scopes[grant] or request["status"] != 200:
                continue
            self.report.rules["requests"] += 1
            name = request["fingerprint"]
            if name not in stored:
                why = self._why_lost(grant, request)
                self.report.counts[f"tokens issued and not stored: {why}"] += 1
                if not why:
                    self._violation("requests", request, f"{grant}: {name} was not stored")
            self._check_reason(grant, request, used, stored)

    def _check_reason(
        self,
        grant: str,
        request: Entry,
        used: dict[tuple[object, ...], Entry],
        stored: set[str],
    ) -> None:
        """A reason is good for one token; for another if the first was lost, say."""
        reasons = list(self._reasons(grant, request))
        for reason in reasons:
            why = ""
            if last := used.get(reason):
                is_lost = last["fingerprint"] not in stored
                why = self._why_repeated(request, last, is_lost=is_lost)
                if not why:
                    continue
                self.report.counts[f"tokens issued once more: {why}"] += 1
            used[reason] = request
            return
        what = "asked for more than once" if reasons else "asked for, and nothing was due"
        self._violation("requests", request, f"{grant}: {what}")

    def _reasons(self, grant: str, request: Entry) -> Iterator[tuple[object, ...]]:
        """Why it may have been asked for: what was stored when the run looked, or a change."""
        runs = [r for r in self.runs if r["begin"] - MARGIN <= request["at"] <= r["end"] + MARGIN]
        looked_at = min([request["at"], *(run["begin"] for run in runs)]) - MARGIN
        states = [
            state
            for state in self.states[grant]
            if state.begin <= request["at"] and looked_at < state.end
        ]
        if not states:
            yield ("first",)
        for state in states:
            if state.token is None or state.due_at - MARGIN <= request["at"]:
                yield ("due", state.number)
            elif self.refused_at.get(state.token["fingerprint"], INFINITY) <= request["at"]:
                yield ("refused by Enable's API", state.number)
        for fault in self._forced(grant, request["at"], request["at"]):
            # A forced run that is killed is tried again, as a whole, by the platform.
            tries = FORCED_TRIES if fault["name"] == "the refresher is killed" else 1
            yield from (("forced", fault["number"], attempt) for attempt in range(tries))
        for fault in self.faults:
            if fault["name"] == "the secret changes" and _span(fault, after=EVENT_SECONDS).meets(
                request["at"], request["at"]
            ):
                yield ("secret", fault["number"])
            if (
                fault["name"] in OVERWRITES
                and grant in fault["grants"]
                and _span(fault, before=MARGIN, after=EVENT_SECONDS).meets(
                    request["at"], request["at"]
                )
            ):
                yield ("taken away", fault["number"])

    def _why_lost(self, grant: str, request: Entry) -> str:
        """Why a token is not stored; empty if nothing explains it."""
        before = self._state_at(grant, request["at"])
        if before and before.is_live(_visible_end(request) - MARGIN):
            return "what is stored ends no earlier"
        begin, end = request["at"], request["until"] + EVENT_SECONDS
        if self._is_slow(begin, end):
            return "the machine was too slow"
        for fault in self.faults:
            is_loss = fault["name"] == "the refresher is killed" or fault.get("on") == "TOKEN_WRITE"
            is_loss = is_loss or (fault["name"] in OVERWRITES and grant in fault["grants"])
            if is_loss and _span(fault, before=MARGIN, after=MARGIN).meets(begin, end):
                return f"{fault['name']}"
        return ""

    def _why_repeated(self, request: Entry, last: Entry, *, is_lost: bool) -> str:
        """Why the same is asked for once more; empty if nothing explains it."""
        if is_lost and last["until"] < request["at"]:
            return "the one before was not stored"
        at = request["at"]
        runs = [r for r in self.runs if r["begin"] - MARGIN <= at <= r["end"] + MARGIN]
        if any(run["end"] - run["begin"] > LEASE_SECONDS - EVENT_SECONDS for run in runs):
            return "a run took as long as its lease lasts"
        if any(self._with_runs(span).meets(last["at"], at) for span in self.slow):
            return "the machine was too slow"
        for fault in self.faults:
            if _hides_state(fault) or fault["name"] == "the refresher is killed":
                span = self._with_runs(_span(fault, before=MARGIN, after=MARGIN))
                if span.meets(at, at):
                    return f"{fault['name']}"
        return ""

    def _check_failed_requests(self) -> None:
        """Each request without a token met a fault, and not oftener than the retries allow."""
        failed: dict[int, list[Entry]] = defaultdict(list)
        unknown: dict[int, list[Entry]] = defaultdict(list)
        for request in self.asked:
            if request["status"] == 200:
                continue
            self.report.rules["requests"] += 1
            if request["fault"] is not None:
                failed[request["fault"]].append(request)
                continue
            reason = self._refusal_reason(request)
            if reason is None:
                self._violation(
                    "requests", request, f"failed ({request['status']}) without a fault"
                )
            else:
                unknown[reason["number"]].append(request)
        for fault in self.faults:
            if many := failed.get(fault["number"]):
                self._check_attempts(fault, many)
            if many := unknown.get(fault["number"]):
                most = 3 * self._runs_at(fault)
                rejected = [request for request in many if request["status"] == 401]
                if len(rejected) > most:
                    self._violation(
                        "requests", fault, f"{len(rejected)} with a wrong secret, at most {most}"
                    )

    def _refusal_reason(self, request: Entry) -> Entry | None:
        """The change or the stop that made Enable itself say no."""
        names = {401: {"the secret changes"}, None: {"Enable stops and starts again"}}
        return next(
            (
                fault
                for fault in self.faults
                if fault["name"] in names.get(request["status"], set())
                and _span(fault, before=MARGIN, after=MARGIN).meets(request["at"], request["until"])
            ),
            None,
        )

    def _check_attempts(self, fault: Entry, requests: list[Entry]) -> None:
        """A network error is met 4 times a run at most, a refusal once until its backoff ends."""
        runs = self._runs_at(fault)
        span = _span(fault)
        changes = sum(
            other["name"] == "the secret changes"
            and _span(other, after=FORCED_SECONDS).meets(span.begin, span.end)
            for other in self.faults
        )
        backoffs = 1 + int((span.end - span.begin) // BACKOFF_SECONDS)
        if any(_hides_state(f) and _span(f).meets(span.begin, span.end) for f in self.faults):
            backoffs = max(backoffs, runs)  # no run knows of the refusal that another met
        for grant, scope in self.scopes.items():
            mine = [request for request in requests if request["scope"] == scope]
            # A change and force wait for no backoff, and the platform tries each three times.
            lifted = 1 + 3 * (changes + sum(1 for _ in self._forced(grant, span.begin, span.end)))
            last = max([_final_attempts(state, span) for state in self.states[grant]], default=0)
            versions = 3 if "invalid_client" in fault["what"] else 1  # of the secret, in one try
            most = {
                "none": fault["attempts"] * runs,
                "asked": fault["attempts"] * runs,
                "grant": backoffs * lifted,
                "connection": versions * (backoffs * lifted + last),
            }[fault["backoff"]]
            if len(mine) > most:
                self._violation(
                    "requests", fault, f"{grant}: asked {len(mine)} times, at most {most}"
                )

    def _runs_at(self, fault: Entry) -> int:
        span = _span(fault, before=MARGIN, after=MARGIN)
        return sum(span.meets(run["begin"], run["end"]) for run in self.runs)

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
        decided = self._recoveries()
        counts["recoveries of a grant after a fault, two runs later"] = sum(decided)
        counts["of faults, all grants recovered"] = sum(n == len(self.scopes) for n in decided)
        counts["of faults, overtaken by the next or a backoff"] = sum(
            n < len(self.scopes) for n in decided
        )
        self.report.counts = counts + self.report.counts
        self.report.faults.update(fault["name"] for fault in self.faults)

    def _recoveries(self) -> list[int]:
        """Of each fault, for how many grants it was decided that they recovered."""
        clear = {grant: list(self._clear(grant)) for grant in self.scopes}
        return [
            sum(self._is_decided(fault, clear[grant]) for grant in self.scopes)
            for fault in self.faults
        ]

    def _is_decided(self, fault: Entry, clear: Sequence[Span]) -> bool:
        """Whether two runs lie in the clear time that follows it."""
        for span in clear:
            if span.end <= fault["end"]:
                continue
            begin = max(span.begin, fault["end"])
            runs = [r for r in self.runs if len(r["grants"]) == len(self.scopes)]
            pairs = _in_sequence([run for run in runs if run["begin"] >= begin])
            return any(second["end"] <= span.end for _, second in pairs)
        return False

    def _violation(self, rule: str, entry: Entry, what: str) -> None:
        at = entry.get("at") or entry.get("begin") or self.begin
        who = f"{entry['caller']}, " if "caller" in entry else ""
        self.report.violations.append(f"{rule}: at {at - self.begin:.1f} s, {who}{what}")


def _moment(entry: Entry) -> float:
    return max(entry.get(name) or 0 for name in ("at", "until", "end", "seen"))


def _span(fault: Entry, *, before: float = 0, after: float = 0) -> Span:
    return Span(fault["begin"] - before, fault["end"] + after)


def _hides_state(fault: Entry) -> bool:
    """Whether it keeps runs from what they tell each other."""
    return (
        str(fault.get("on")).startswith("STATE")
        or fault["name"] == "the connection's state is deleted"
    )


def _hold(request: Entry, in_a_row: int) -> Span:
    seconds = min(BACKOFF_SECONDS * 2 ** (in_a_row - 1), LONGEST_BACKOFF_SECONDS)
    return Span(request["at"], request["until"] + seconds + MARGIN)


def _final_attempts(state: State, span: Span) -> int:
    """How often its token is asked for within the span because it is about to end."""
    if state.token is None or not span.meets(state.begin, state.end):
        return 0
    ends: float = state.token["expires_at"]
    left, tries = min(FINAL_RETRY_SECONDS, ends - span.begin), 0
    while left > max(ends - span.end, 0):
        tries += 1
        left -= max(left / 2, 2) - MARGIN
    return tries


def _ended(state: State, end: float) -> State:
    return State(
        number=state.number,
        begin=state.begin,
        seen=state.seen,
        end=min(state.end, end),
        token=state.token,
    )


def _cut(state: State, deletion: Span) -> State:
    """The state, which a deletion within it ended."""
    return _ended(state, deletion.begin) if state.begin < deletion.begin < state.end else state


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
