"""Untrusted bytes: nothing is converted, nothing is quoted."""

from dataclasses import dataclass

import pytest
from pydantic import TypeAdapter

from tests.unit.fakes import SECRET, TOKEN, all_said, leaks
from token_refresher.enable.validation import validate_json


@dataclass(frozen=True)
class Inner:
    number: int = 0

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError("number is negative")


@dataclass(frozen=True)
class Record:
    name: str
    inner: tuple[Inner, ...] = ()


ADAPTER = TypeAdapter(Record)


def test_sound_json_becomes_the_record() -> None:
    assert validate_json(ADAPTER, b'{"name": "x", "inner": [{"number": 1}]}') == Record(
        "x", (Inner(1),)
    )


@pytest.mark.parametrize("data", ['\ufeff{"name": "x"}', '\ufeff{"name": "x"}'.encode()])
def test_byte_order_mark_before_the_json_is_ignored(data: str | bytes) -> None:
    assert validate_json(ADAPTER, data) == Record("x")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "^not valid JSON$"),
        (f'{{"name": "{TOKEN}'.encode(), "^not valid JSON$"),
        (b'{"name": "\xff"}', "^not valid JSON$"),
        ("[" * 10_000, "^not valid JSON$"),
        (f'"{TOKEN}"', "Input should be"),
        (f'{{"{TOKEN}": 1}}', "^name: Field required$"),
        (f'{{"name": ["{TOKEN}"]}}', "^name: Input should be a valid string$"),
        ('{"name": 1}', "^name: "),
        ('{"name": "x", "inner": [{"number": "1"}]}', r"^inner\.0\.number: "),
        ('{"name": "x", "inner": [{"number": true}]}', r"^inner\.0\.number: "),
        ('{"name": "x", "inner": [{"number": -1}]}', r"^inner\.0: number is negative$"),
        ('{"name": 1, "inner": 2}', "^name: .*; inner: "),
    ],
)
def test_faults_are_told_by_place_and_kind(data: bytes | str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        validate_json(ADAPTER, data)
    assert not leaks(all_said(caught.value))


def test_what_pydantic_itself_says_would_give_the_secret_away() -> None:
    with pytest.raises(ValueError, match="Input should be") as caught:
        ADAPTER.validate_python({"name": [SECRET]})
    assert leaks(all_said(caught.value))
