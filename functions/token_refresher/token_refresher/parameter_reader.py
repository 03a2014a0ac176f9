"""What a run reads: states and tokens, ten parameters a call, decrypted only where they changed.

An idle run costs one call for ten parameters and no KMS request. The store still decides in every
run: a parameter that was deleted, replaced or corrupted is gone, or has another version or
modification date (a version alone does not tell: it is 1 again after a deletion).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime
from itertools import batched
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from token_broker.models import Blocked, Corrupt, Stored, StoredToken, stored_state
from token_broker.token_store import ParameterTokenStore
from token_refresher.connection_state import ConnectionState, ConnectionStateStore

if TYPE_CHECKING:
    from types_boto3_ssm import SSMClient
    from types_boto3_ssm.type_defs import GetParametersResultTypeDef, ParameterTypeDef

MOST_NAMES: Final = 10
"""Of a `GetParameters` call."""

CALLS_AT_A_TIME: Final = 8

type _Entry = ParameterTypeDef | Exception | None
type _Entries = dict[str, _Entry]
"""By name; None if there is no such parameter. Names of a call that AWS refused are left out."""

type _Mark = tuple[int, datetime]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a run has read.

    Attributes:
        states: by connection.
        stored: by grant; an exception if it could not be read.
    """

    states: Mapping[str, ConnectionState]
    stored: Mapping[str, Stored | Exception]


class ParameterReader:
    """Reads for one run after another, and remembers what it has decrypted.

    Parameter Store refuses a call as a whole if it refuses one of the names, or cannot decrypt one
    of the values. Those are then read one by one, so that what is wrong with one grant affects no
    other.

    Args:
        ssm: a boto3 or botocore client of Systems Manager.
        store: of the tokens.
        states: of the connections.
    """

    def __init__(
        self, ssm: "SSMClient", *, store: ParameterTokenStore, states: ConnectionStateStore
    ) -> None:
        self._ssm = ssm
        self._store = store
        self._states = states
        self._remembered: dict[str, tuple[_Mark, Stored]] = {}

    def read(
        self,
        connections: Sequence[str],
        grants: Sequence[str],
        *,
        threads: Callable[[int], Executor],
    ) -> Reading:
        """Read states and tokens; no state after a token.

        So the lease's version shows a run that ends between the two, and what it renewed is not
        renewed again.
        """
        names = [*map(self._states.name, connections), *map(self._store.name, grants)]
        batches = list(batched(names, MOST_NAMES, strict=False))
        with_states = math.ceil(len(connections) / MOST_NAMES)
        with threads(CALLS_AT_A_TIME) as pool:
            entries = _merged(map(self._encrypted, batches[:with_states]))
            states = {name: self._state(name, entries) for name in connections}
            entries |= _merged(pool.map(self._encrypted, batches[with_states:]))
            return Reading(states, self._stored(grants, entries, pool))

    def _encrypted(self, names: Sequence[str]) -> _Entries:
        return _entries(names, lambda: self._ssm.get_parameters(Names=list(names)))

    def _state(self, connection: str, entries: _Entries) -> ConnectionState:
        name = self._states.name(connection)
        if name not in entries:
            return self._states.read(connection)
        match entries[name]:
            case None:
                return ConnectionState()
            case Exception():
                return ConnectionState(version=None)
            case parameter:
                return ConnectionState.from_json(parameter["Value"], version=parameter["Version"])

    def _stored(
        self, grants: Sequence[str], entries: _Entries, pool: Executor
    ) -> dict[str, Stored | Exception]:
        """What is absent or remembered; the rest is decrypted, and remembered."""
        stored: dict[str, Stored | Exception] = {}
        changed: dict[str, _Mark] = {}
        for grant in grants:
            name = self._store.name(grant)
            if name not in entries:
                continue
            match entries[name]:
                case None | Exception() as entry:
                    stored[grant] = entry
                case parameter:
                    mark = parameter["Version"], parameter["LastModifiedDate"]
                    remembered, value = self._remembered.get(grant, (None, None))
                    if remembered == mark:
                        stored[grant] = value
                    else:
                        changed[grant] = mark
        batches = batched(changed, MOST_NAMES, strict=False)
        stored |= _merged(pool.map(self._decrypted, batches))
        alone = [grant for grant in grants if grant not in stored]
        stored |= zip(alone, pool.map(self._alone, alone), strict=True)
        self._remember(changed, stored)
        return stored

    def _decrypted(self, grants: Sequence[str]) -> dict[str, Stored | Exception]:
        if len(grants) == 1:
            return {}  # read alone: Parameter Store then tells why it cannot be decrypted
        names = [self._store.name(grant) for grant in grants]
        entries = _entries(
            names, lambda: self._ssm.get_parameters(Names=names, WithDecryption=True)
        )
        return {
            grant: self._checked(grant, entries[name])
            for grant, name in zip(grants, names, strict=True)
            if name in entries
        }

    def _checked(self, grant: str, entry: _Entry) -> Stored | Exception:
        if entry is None or isinstance(entry, Exception):
            return entry
        try:
            return self._store.checked(grant, stored_state(entry["Value"], entry["Version"]))
        except Exception as error:
            return error

    def _alone(self, grant: str) -> Stored | Exception:
        try:
            return self._store.state(grant)
        except Exception as error:
            return error

    def _remember(
        self, marks: Mapping[str, _Mark], stored: Mapping[str, Stored | Exception]
    ) -> None:
        """Keep what was decrypted; a key that is unusable now may be usable in the next run."""
        for grant, mark in marks.items():
            match stored[grant]:
                case StoredToken() | Blocked() | Corrupt() as decrypted:
                    self._remembered[grant] = mark, decrypted


def _entries(names: Sequence[str], get: "Callable[[], GetParametersResultTypeDef]") -> _Entries:
    try:
        parameters = {parameter["Name"]: parameter for parameter in get()["Parameters"]}
    except ClientError:
        return {}
    except Exception as error:
        return dict.fromkeys(names, error)
    return {name: parameters.get(name) for name in names}


def _merged[Value](parts: Iterable[Mapping[str, Value]]) -> dict[str, Value]:
    return {name: value for part in parts for name, value in part.items()}
