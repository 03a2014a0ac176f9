"""Schedules of a confused server, from a seed; the longer run is a command."""

from typing import Any

import urllib3

from tests.faults.schedules import GRANTS, play
from token_refresher.enable.http_client import HttpClient, NoResponse, Response

SEED = 1
COUNT = 30


class ReusingClient(HttpClient):
    """Keeps connections for other requests, as most HTTP clients do."""

    def __init__(self) -> None:
        super().__init__()
        self._pool = urllib3.PoolManager(maxsize=8, retries=False, timeout=10.0)

    def request(self, method: str, url: str, **options: Any) -> Response:
        del options["limit"]
        try:
            response = self._pool.request(method, url, redirect=False, **options)
        except urllib3.exceptions.HTTPError:
            raise NoResponse("connection") from None
        return Response(status=response.status, headers=response.headers, body=response.data)


def test_no_token_is_ever_stored_for_a_grant_or_connection_that_did_not_request_it() -> None:
    report = play(SEED, range(COUNT))
    assert report.foreign == []
    assert report.renewed > 0.8 * COUNT * len(GRANTS)
    assert {"102", "103", "503", "another token", "junk", "in chunks", "reset"} <= set(
        report.events
    )


def test_schedules_find_a_client_that_uses_connections_again() -> None:
    assert play(SEED, range(20), ReusingClient()).foreign
