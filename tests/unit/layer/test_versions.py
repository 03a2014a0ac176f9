"""Compare after write: which versions of a parameter tell what others wrote."""

import pytest

from token_broker.versions import written_between


@pytest.mark.parametrize(
    ("seen", "written", "looked_at"),
    [
        (3, 4, []),
        (3, 6, [4, 5]),
        (0, 3, [1, 2]),
        (7, 3, [1, 2]),  # deleted in the meantime
        (None, 5, [4]),
        (None, 1, []),
        (3, 30, [*range(20, 30)]),
    ],
)
def test_versions_between_a_read_and_a_write_are_looked_at(
    seen: int | None, written: int, looked_at: list[int]
) -> None:
    assert written_between(lambda version: version, seen=seen, written=written) == looked_at
