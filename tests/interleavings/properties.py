"""The properties while refresh runs and an operator interleave, and when all of them have ended."""

from datetime import datetime, timedelta
from functools import cache
from typing import Final

from tests.interleavings.explorer import Disturbance, Scenario, State
from tests.interleavings.world import CONNECTION, NOT_FOUND, PREFIX, Parameters, Run, Trigger, begin
from token_broker.errors import GrantBlocked
from token_broker.models import Blocked, Stored, StoredToken, stored_state
from token_broker.token_store import ParameterTokenStore
from token_refresher.connection_state import LEASE, ConnectionState

INTERRUPTED: Final = (Disturbance.CRASH, Disturbance.LOSE)
"""The run does not compare after its write."""

HARMLESS: Final = {Disturbance.BLOCK, Disturbance.REPEAT}
"""These cost no request."""

REPLACES_ANY: Final = {Trigger.FORCED, Trigger.REJECTED}

READ: Final = cache(stored_state)
READ_CONNECTION: Final = cache(ConnectionState.from_json)
"""Many thousands of states have few different values."""


def in_each_state(scenario: Scenario, state: State) -> list[str]:
    """At every moment, a reader of a blocked grant reads the block."""
    return [
        f"{name} is vended although it is blocked"
        for name in _blocked(scenario, state)
        if not _is_block_read(state.parameters, name)
    ]


def at_the_end(scenario: Scenario, state: State) -> list[str]:
    """All runs have ended, or were killed."""
    faults = [f"run {run.settings.number} raised {run.error!r}" for run in state.runs if run.error]
    for name in scenario.grants:
        faults += _faults_of_token(scenario, state, name)
    requests, most = sum(run.requests for run in state.runs), _most_requests(scenario, state)
    faults += [f"{requests} requests, at most {most}"] if requests > most else []
    return faults + _faults_of_lease(state) + _faults_of_recovery(scenario, state)


def _faults_of_token(scenario: Scenario, state: State, name: str) -> list[str]:
    """The best token that was stored is stored, or the block."""
    stored = _stored(state.parameters, name)
    if name in _blocked(scenario, state):
        is_put_back = isinstance(stored, Blocked) or state.has_happened(*INTERRUPTED)
        return [] if is_put_back else [f"{name}: the block is gone"]
    if not isinstance(stored, StoredToken):
        is_deleted = stored is None and state.has_happened(Disturbance.DELETE)
        return [] if is_deleted else [f"{name}: {stored!r} is stored"]
    return [f"{name}: {fault}" for fault in _faults_of_choice(scenario, state, name, stored)]


def _faults_of_choice(
    scenario: Scenario, state: State, name: str, stored: StoredToken
) -> list[str]:
    ever = [READ(text, 0) for text in state.parameters.ever(f"{PREFIX}/{name}")]
    tokens = [token for token in ever if isinstance(token, StoredToken)]
    issued = [token for token in tokens if token.secret_version == "v2"]
    if issued and stored not in issued and not state.has_happened(*INTERRUPTED):
        return ["the old token is stored, and a new one was"]
    best = max(issued or tokens, key=lambda token: token.expires_at)
    is_any = scenario.triggers[_writer(stored)] in REPLACES_ANY if stored in issued else False
    is_best = stored.expires_at >= best.expires_at
    # Nobody compares after a write whose run was killed or got no response, and a parameter that
    # is created again counts its versions again: any token that was issued is good then.
    is_uncompared = state.has_happened(*INTERRUPTED, Disturbance.DELETE)
    if is_best or is_any or is_uncompared:
        return []
    return [f"{stored.access_token} is stored, and {best.access_token} was"]


def _writer(token: StoredToken) -> int:
    """The number of the run that Enable issued a token to."""
    return int(token.access_token.split("-")[1])


def _most_requests(scenario: Scenario, state: State) -> int:
    """Those of a run alone; for each grant that a forced run or a disturbance concerns, one more.

    A forced run makes its request whatever others do; any other one only if a disturbance has
    kept the lease or the token from it.
    """
    forced = scenario.triggers.count(Trigger.FORCED)
    others = len(scenario.triggers) - forced
    causes = {choice.disturbance for choice in state.happened} - HARMLESS
    if len(scenario.triggers) > 2 and forced:  # it releases the lease of another run
        causes |= {Trigger.FORCED}
    more = min(len(causes), max(others - 1, 0)) * len(scenario.grants)
    return forced + more + (len(scenario.grants) if others else 0)


def _faults_of_lease(state: State) -> list[str]:
    """No lease is left; that of a run that was killed ends with its duration."""
    left = _connection_state(state.parameters)
    if left.is_leased(state.now + LEASE):
        return ["a lease outlives its duration"]
    is_excused = left.leased_at is None or state.has_happened(*INTERRUPTED)
    return [] if is_excused else ["a lease is left"]


def _faults_of_recovery(scenario: Scenario, state: State) -> list[str]:
    """A scheduled run that starts when the lease has ended leaves nothing to be done."""
    start = state.now + max(LEASE, timedelta(minutes=1))
    run = begin(scenario.run(len(state.runs), Trigger.SCHEDULE, start))
    parameters, faults = _alone(run, state.parameters, start), list[str]()
    for name in scenario.grants:
        stored = _stored(parameters, name)
        is_good = isinstance(stored, StoredToken) and stored.is_live(start + timedelta(minutes=10))
        if name in _blocked(scenario, state):
            is_good = isinstance(stored, Blocked)
        faults += [] if is_good else [f"{name}: a later run leaves {stored!r}"]
    is_leased = _connection_state(parameters).is_leased(start)
    return [*faults, "a later run leaves a lease"] if is_leased else faults


def _alone(run: Run, parameters: Parameters, now: datetime) -> Parameters:
    """What is stored when no other run is in progress."""
    while call := run.pending:
        result: object = None
        match call.kind:
            case "get":
                result = parameters.returned(call)
            case "put":
                parameters, result = parameters.put(str(call.subject), str(call.detail))
        run = run.after(result, now)
    return parameters


def _blocked(scenario: Scenario, state: State) -> list[str]:
    """Grants that an operator has blocked, and whose parameter nobody has deleted since."""
    names: dict[str, None] = {}
    for choice in state.happened:
        match choice.disturbance:
            case Disturbance.BLOCK:
                names[scenario.grants[choice.actor]] = None
            case Disturbance.DELETE:
                names.pop(scenario.grants[choice.actor], None)
    return list(names)


def _is_block_read(parameters: Parameters, name: str) -> bool:
    """As the vend function reads a grant."""
    try:
        ParameterTokenStore(parameters.client(), prefix=PREFIX).read(name)
    except GrantBlocked:
        return True
    return False


def _stored(parameters: Parameters, name: str) -> Stored:
    """The parameter's own value."""
    found = parameters.get(f"{PREFIX}/{name}")
    return None if found == NOT_FOUND else READ(found[0], int(found[1]))


def _connection_state(parameters: Parameters) -> ConnectionState:
    found = parameters.get(CONNECTION)
    return ConnectionState() if found == NOT_FOUND else READ_CONNECTION(found[0])
