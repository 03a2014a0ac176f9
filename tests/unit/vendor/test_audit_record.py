"""The log's allow-list of a request: a type whose fields are all that can be logged."""

from dataclasses import fields

import pytest

from tests.unit.fakes import stored
from token_vendor.audit_record import AuditRecord
from token_vendor.vend import Vended


def test_fields_of_the_record_are_the_allow_list() -> None:
    values = {field.name: "1" for field in fields(AuditRecord)}
    assert AuditRecord(**values).log_fields() == values  # type: ignore[arg-type]
    assert set(values) == {
        "caller",
        "grant",
        "scope",
        "fingerprint",
        "expires_at",
        "seconds_left",
        "would_be_refused",
        "refresh",
        "reason",
        "cause",
    }


def test_other_field_cannot_be_set() -> None:
    with pytest.raises(AttributeError):
        AuditRecord().body = "a token"  # type: ignore[attr-defined]


def test_unknown_facts_are_left_out_but_caller_and_grant_are_always_there() -> None:
    assert AuditRecord().log_fields() == {"caller": "", "grant": ""}
    assert AuditRecord(seconds_left=0).log_fields()["seconds_left"] == 0


def test_vended_token_is_described() -> None:
    record = AuditRecord(grant="all")
    token = stored(scope=("read:deals", "read:users"), left=61)
    record.add_vended(Vended(grant="all", token=token, is_only_audited=False), seconds_left=61)
    assert record.log_fields() == {
        "caller": "",
        "grant": "all",
        "scope": "read:deals read:users",
        "fingerprint": token.fingerprint,
        "expires_at": "2025-03-01T12:01:01Z",
        "seconds_left": 61,
    }


def test_grant_that_a_caller_made_up_is_cut() -> None:
    assert AuditRecord(grant="x" * 5000).log_fields()["grant"] == "x" * 64
