"""What the functions' log never contains, whatever level the others' loggers are given."""

import json
import logging

import pytest
from botocore.session import Session

from token_broker.log import BODY_LOGGERS, service_logger


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """As a function whose log level, or a layer of it, is set to DEBUG."""
    for name in BODY_LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET)
    caplog.set_level(logging.DEBUG)
    return caplog


def test_line_has_no_field_that_is_the_same_in_every_line(capsys: pytest.CaptureFixture[str]):
    logger = service_logger("line-length")
    logger.structure_logs(append=True, function_name="f", function_arn="a", function_memory_size=1)
    logger.info("token vended", extra={"grant": "deals"})
    line = json.loads(capsys.readouterr().out)
    assert set(line) == {"level", "message", "timestamp", "service", "grant"}


@pytest.mark.parametrize(("is_cold", "logged"), [(True, [True]), (False, [])])
def test_line_names_a_cold_start_and_no_warm_one(
    capsys: pytest.CaptureFixture[str],
    is_cold: bool,  # noqa: FBT001
    logged: list[bool],
):
    logger = service_logger(f"cold-start-{is_cold}")
    logger.structure_logs(append=True, cold_start=is_cold)
    logger.info("token vended")
    line = json.loads(capsys.readouterr().out)
    assert [value for name, value in line.items() if name == "cold_start"] == logged


def test_botocore_would_log_what_it_sends(everything_logged: pytest.LogCaptureFixture):
    Session().create_client("ssm", region_name="eu-west-1")
    assert [r for r in everything_logged.records if r.name.startswith("botocore")]


def test_no_library_logs_what_it_sends_once_a_service_logger_is_made(
    everything_logged: pytest.LogCaptureFixture,
):
    service_logger("token-refresher")
    Session().create_client("ssm", region_name="eu-west-1")
    logging.getLogger("urllib3.connectionpool").debug("a request")
    logging.getLogger("botocore.parsers").debug("a response")
    logging.getLogger("botocore.credentials").info("Found credentials in environment variables.")
    logging.getLogger("urllib3.connectionpool").warning("Connection pool is full")
    assert [r for r in everything_logged.records if r.name.startswith(BODY_LOGGERS)] == []
    logging.getLogger("botocore.parsers").error("what Lambda's runtime writes as plain text")
    assert everything_logged.records[-1].name == "botocore.parsers"
