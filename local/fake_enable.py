"""A fake Enable on loopback, so that the whole system runs without an account.

It returns what a token client can see of Enable, and is stricter than Enable is
known to be: the token endpoint (`POST /oauth2/token`, OAuth 2.0 client credentials with Enable's
`dealtrack_registration_id`, RFC 6749 sections 4.4 and 5), the areas of the API
(`GET /v1/deals`, `/v1/activity` …) that take its bearer tokens (RFC 6750), and reports, which
take time: `POST /v1/reports/{area}` starts a job, `GET …/queue-jobs/{id}` is polled and redirects
to the result. How a report starts is not published: here as JSON:API's recommendation,
"Asynchronous Processing", has it.
Secrets can be rotated, tokens revoked and the token endpoint broken while it runs.

In a test or a demo it is a context manager that serves from a thread of the same process::

    with FakeEnable(client) as enable:
        request_token(enable.token_url)

On its own it is a command: `python -m local.fake_enable --help`.
"""

import argparse
import hashlib
import hmac
import json
import math
import os
import re
import secrets
import signal
import socket
import ssl
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args, override
from urllib.parse import parse_qsl
from wsgiref.types import StartResponse, WSGIEnvironment

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

ISSUER = "urn:fake-enable"
"""The `iss` of every token; no URL, since the port differs from run to run."""

DEFAULT_TOKEN_LIFETIME = timedelta(minutes=15)
"""Longer than the broker's default of 600 seconds for refreshing ahead."""

_HOST = "127.0.0.1"
_OAUTH_PATH = "/oauth2/token"
_FORM = "application/x-www-form-urlencoded"
_JSON_API = "application/vnd.api+json"
_FIELDS = ("client_id", "client_secret", "dealtrack_registration_id", "scope", "grant_type")
_CREDENTIAL_FIELDS = _FIELDS[:3]
_SCOPE_TOKEN = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+")  # RFC 6749 section 3.3
_BROKEN_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Area:
    """An area of the API: the scope that opens it, and what is inside."""

    scope: str
    resources: tuple[Mapping[str, object], ...]


def _sample(kind: str, number: int, **attributes: str) -> Mapping[str, object]:
    return {"type": kind, "id": str(number), "attributes": attributes}


# The attributes are made up: the broker hands out tokens and never reads a resource. Which scope
# opens the areas besides deals, activity and users is not published: here it is read:deals.
_AREAS = {
    "/v1/deals": _Area(
        scope="read:deals",
        resources=(
            _sample("deals", 1001, name="Roof tiles, volume rebate", status="live"),
            _sample("deals", 1002, name="Timber, growth rebate", status="live"),
            _sample("deals", 1003, name="Paint, marketing support", status="draft"),
        ),
    ),
    "/v1/activity": _Area(
        scope="read:activity",
        resources=(
            _sample("activity", 1, action="deal.created", at="2025-01-06T09:12:00Z"),
            _sample("activity", 2, action="deal.approved", at="2025-01-07T15:40:00Z"),
        ),
    ),
    "/v1/users": _Area(
        scope="read:users",
        resources=(
            _sample("users", 1, name="Ada Example", role="buyer"),
            _sample("users", 2, name="Ben Example", role="approver"),
        ),
    ),
} | {
    f"/v1/{kind}": _Area(scope="read:deals", resources=(_sample(kind, 1, name="an example"),))
    for kind in (
        *("trading-partners", "schemes", "items", "earnings", "granular-earnings", "turnover"),
        *("attachments", "collaborators", "collections", "collection-items"),
    )
}
_REPORT = re.compile(
    r"/v1/reports/(?P<area>[a-z-]+)(/(?P<kind>queue-jobs|results)/(?P<job_id>[0-9a-f-]{36}))?"
)

type Signature = Literal["HS256", "RS256"]

SCOPES = frozenset(area.scope for area in _AREAS.values())
"""The scopes that open an area here."""


def fingerprint(token: str) -> str:
    """Return the first 12 hex digits of the token's SHA-256: its name wherever one is needed."""
    return hashlib.sha256(token.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One set of Enable credentials, and the scopes that they permit.

    A scope that opens no area here may be permitted too: Enable's list will grow.

    Raises:
        ValueError: A credential is not a non-empty string, or a scope is not a scope-token
            of RFC 6749 section 3.3. The message names the field and contains no value.
    """

    client_id: str
    client_secret: str = field(repr=False)
    dealtrack_registration_id: str
    permitted_scopes: frozenset[str] = SCOPES

    def __post_init__(self) -> None:
        for name in _CREDENTIAL_FIELDS:
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise ValueError(f"{name} must be a non-empty string")
        if not all(_SCOPE_TOKEN.fullmatch(scope) for scope in self.permitted_scopes):
            raise ValueError("permitted_scopes must contain scope-tokens (RFC 6749 section 3.3)")

    def secret_json(self) -> str:
        """What an operator stores for the broker to present these credentials."""
        return json.dumps({name: getattr(self, name) for name in _CREDENTIAL_FIELDS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """What the token endpoint returns instead of a token, until the outage is lifted.

    Attributes:
        status: The HTTP status, such as 503 or 429; None closes the connection unanswered.
        retry_after: Sent as `Retry-After`, rounded up to whole seconds.
    """

    status: int | None
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequestSeen:
    """A request with its response, to the token endpoint; contains neither secret nor token.

    Attributes:
        at: When the request arrived (UTC).
        client_id: The client that the request named, if there is such a client: whatever else
            stands in that field may be a secret that was put in the wrong place.
        scope: The scope of the issued token, sorted; None for a refusal.
        status: The HTTP status; None where the connection was closed unanswered.
        error: The OAuth error code of a refusal.
        fingerprint: Names the issued token; see `fingerprint`.
    """

    at: datetime
    client_id: str | None = None
    scope: str | None = None
    status: int | None
    error: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRequestSeen:
    """A request with its response, to an area of the API; does not contain the token.

    Attributes:
        at: When the request arrived (UTC).
        path: The area's path, such as `/v1/deals`.
        status: The HTTP status.
        fingerprint: Names the bearer token that was shown, valid or not; None without one.
    """

    at: datetime
    path: str
    status: int
    fingerprint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _IssuedToken:
    token: str = field(repr=False)
    client_id: str
    scope: str
    expires_at: int  # seconds since the epoch, the JWT's `exp`
    expires_in: int  # seconds from issue


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A report that a client has started."""

    area: str
    client_id: str
    ready_at: datetime


@dataclass(frozen=True, slots=True)
class _Route:
    """What a path of the API takes, and what it returns to a client that may have it."""

    scope: str
    method: str
    respond: Callable[[str, datetime], Response]


class _TokenRefusedError(Exception):
    """A refusal of the token endpoint, as RFC 6749 section 5.2 puts it.

    The descriptions are fixed texts about known fields: nothing that a client sent comes back.
    """

    def __init__(self, error: str, description: str, status: int = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(error, description)
        self.error = error
        self.description = description
        self.status = int(status)


class FakeEnable:
    """Enable's token endpoint and a little of its API, served on a loopback port.

    Entering the context starts the server in a thread of this process; leaving it stops the
    server and joins the thread. The instance is also a WSGI application, so that
    `werkzeug.test.Client(fake_enable)` can call it without a socket. All of it is thread-safe.

    Attributes:
        latency: How long the token endpoint sleeps before it responds; may be set at any time.
        report_time: How long a report takes; may be set at any time.
    """

    def __init__(
        self,
        *clients: Client,
        token_lifetime: timedelta = DEFAULT_TOKEN_LIFETIME,
        port: int = 0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        signature: Signature = "HS256",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Make the fake Enable, and the key that signs its tokens, without starting it.

        Args:
            *clients: Who may ask for tokens.
            token_lifetime: How long a token lives; see the property.
            port: The port to serve on; 0 takes a free one.
            clock: Tells the time (UTC); tests wind it on instead of waiting.
            signature: Of the tokens: HS256 as in Enable's published examples, or RS256.
            tls: The server's certificate, to be served by https; None for http.
        """
        self.token_lifetime = token_lifetime
        self.latency = timedelta(0)
        self.report_time = timedelta(seconds=1)
        self._clock = clock
        self._requested_port = port
        self._signature = signature
        self._tls = tls
        self._key = _new_key(signature)
        self._server: BaseWSGIServer | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

        self._clients = {client.client_id: client for client in clients}

        # The lock guards everything below; nothing slow (sleep, signature) is done under it.
        self._lock = threading.Lock()
        self._accepted_secrets: dict[str, tuple[str, ...]] = {
            client.client_id: (client.client_secret,) for client in clients
        }
        self._issued: dict[str, _IssuedToken] = {}
        self._jobs: dict[str, _Job] = {}
        self._revoked: set[str] = set()
        self._outage: Outage | None = None
        self._token_requests: list[TokenRequestSeen] = []
        self._api_requests: list[ApiRequestSeen] = []

    # Serving

    def __enter__(self) -> Self:
        """Start serving.

        Raises:
            OSError: The port is taken.
            RuntimeError: It is serving already.
        """
        if self._server is not None:
            raise RuntimeError("the fake Enable is serving already")
        self._stopping.clear()
        # Bound here, because werkzeug reacts to a port in use by ending the whole process.
        with socket.create_server((_HOST, self._requested_port), backlog=128) as listener:
            self._server = make_server(
                _HOST,
                self._requested_port,
                self,
                threaded=True,
                request_handler=_QuietRequestHandler,
                ssl_context=self._tls,
                fd=listener.fileno(),
            )
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},  # seconds that stopping may take
            name="fake-enable",
            daemon=True,
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop serving and close the port; a request asleep in `latency` is woken."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is None or thread is None:
            return
        self._stopping.set()
        server.shutdown()
        thread.join()

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end.

        Raises:
            RuntimeError: It is not serving.
        """
        server = self._server
        if server is None:
            raise RuntimeError("the fake Enable is not serving: enter its context first")
        return f"{'https' if self._tls else 'http'}://{_HOST}:{server.port}"

    @property
    def token_url(self) -> str:
        """The URL of the token endpoint."""
        return self.url + _OAUTH_PATH

    # Controls

    @property
    def token_lifetime(self) -> timedelta:
        """How long tokens issued from now on live, in whole seconds.

        Raises:
            ValueError: On setting less than a second, or a fraction of one.
        """
        return self._token_lifetime

    @token_lifetime.setter
    def token_lifetime(self, lifetime: timedelta) -> None:
        if lifetime < timedelta(seconds=1) or lifetime.microseconds:
            raise ValueError("a token's lifetime is a whole number of seconds, 1 or more")
        self._token_lifetime = lifetime

    def change_secret(
        self, client_id: str, new_secret: str, *, also_accept_old: bool = False
    ) -> None:
        """Give a client a new secret; tokens already issued live on.

        Args:
            client_id: A client of this fake Enable.
            new_secret: The secret from now on.
            also_accept_old: Let the secret that this one replaces work too, until the next change.

        Raises:
            KeyError: There is no such client.
            ValueError: The new secret is empty.
        """
        if not new_secret:
            raise ValueError("new_secret must be a non-empty string")
        with self._lock:
            old_secret = self._accepted_secrets[client_id][0]
            self._accepted_secrets[client_id] = (
                (new_secret, old_secret) if also_accept_old else (new_secret,)
            )

    def revoke(self, token_fingerprint: str) -> None:
        """Make the API refuse the token that has this fingerprint.

        Raises:
            KeyError: No such token was issued.
        """
        with self._lock:
            if token_fingerprint not in self._issued:
                raise KeyError(token_fingerprint)
            self._revoked.add(token_fingerprint)

    def stop_answering(self, outage: Outage | None) -> None:
        """Break the token endpoint in the given way, or fix it (None)."""
        with self._lock:
            self._outage = outage

    # Observations

    @property
    def token_requests(self) -> tuple[TokenRequestSeen, ...]:
        """Every request to the token endpoint so far, in the order of the responses."""
        with self._lock:
            return tuple(self._token_requests)

    @property
    def api_requests(self) -> tuple[ApiRequestSeen, ...]:
        """Every request to an area of the API so far, in the order of the responses."""
        with self._lock:
            return tuple(self._api_requests)

    def count_issued_by_scope(self) -> Counter[str]:
        """Return how many tokens were issued for each scope (sorted, space-delimited)."""
        with self._lock:
            return Counter(issued.scope for issued in self._issued.values())

    def issued_tokens(self) -> Iterator[str]:
        """Yield every access token ever issued: real bearer tokens, so never log them.

        They are kept in memory only, so that a test can search logs and files for leaks.
        """
        with self._lock:
            tokens = [issued.token for issued in self._issued.values()]
        return iter(tokens)

    # Responses

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Respond to one request (WSGI).

        Raises:
            ConnectionAbortedError: An outage closes the connection unanswered.
        """
        response = self._respond(Request(environ))
        return response(environ, start_response)

    def _respond(self, request: Request) -> Response:
        if request.path == _OAUTH_PATH:
            return self._respond_to_token_request(request)
        route = self._route(request.path)
        if route is not None:
            return self._respond_to_api_request(request, route)
        return _not_found()

    def _route(self, path: str) -> _Route | None:
        """What there is at a path."""
        if path in _AREAS:
            return _Route(_AREAS[path].scope, "GET", lambda *_: _resources(_AREAS[path]))
        found = _REPORT.fullmatch(path)
        area = _AREAS.get(f"/v1/{found['area']}") if found else None
        if found is None or area is None:
            return None
        job_id = found["job_id"]
        if job_id is None:
            return _Route(area.scope, "POST", partial(self._start_report, found["area"]))
        respond = self._poll_report if found["kind"] == "queue-jobs" else self._report
        return _Route(area.scope, "GET", partial(respond, found["area"], job_id))

    def _start_report(self, area: str, client_id: str, now: datetime) -> Response:
        job_id = str(uuid.uuid4())
        with self._lock:
            job = _Job(area=area, client_id=client_id, ready_at=now + self.report_time)
            self._jobs[job_id] = job
        response = _job_response(job_id, HTTPStatus.ACCEPTED)
        response.headers["Content-Location"] = f"/v1/reports/{area}/queue-jobs/{job_id}"
        return response

    def _poll_report(self, area: str, job_id: str, client_id: str, now: datetime) -> Response:
        job = self._job(area, job_id, client_id)
        if job is None:
            return _not_found()
        if now < job.ready_at:
            return _job_response(job_id, HTTPStatus.OK)
        location = f"/v1/reports/{area}/results/{job_id}"
        return Response(status=HTTPStatus.SEE_OTHER, headers={"Location": location})

    def _report(self, area: str, job_id: str, client_id: str, now: datetime) -> Response:
        job = self._job(area, job_id, client_id)
        if job is None or now < job.ready_at:
            return _not_found()
        return _resources(_AREAS[f"/v1/{area}"])

    def _job(self, area: str, job_id: str, client_id: str) -> _Job | None:
        """A job of this client; another's is not there."""
        with self._lock:
            job = self._jobs.get(job_id)
        return job if job and (job.area, job.client_id) == (area, client_id) else None

    def _respond_to_token_request(self, request: Request) -> Response:
        at = self._clock()
        body = request.get_data()  # read even in an outage: unread bytes would reset the connection
        self._stopping.wait(self.latency.total_seconds())
        with self._lock:
            outage = self._outage
        if outage is not None:
            self._see(TokenRequestSeen(at=at, status=outage.status))
            return _outage_response(outage)

        client_id: str | None = None
        try:
            fields = _read_fields(request, body)
            client_id = fields["client_id"] if fields["client_id"] in self._clients else None
            issued = self._issue(fields)
        except _TokenRefusedError as refused:
            self._see(
                TokenRequestSeen(
                    at=at, client_id=client_id, status=refused.status, error=refused.error
                )
            )
            return _refusal_response(refused)
        self._see(
            TokenRequestSeen(
                at=at,
                client_id=client_id,
                scope=issued.scope,
                status=HTTPStatus.OK.value,
                fingerprint=fingerprint(issued.token),
            )
        )
        return _token_response(issued)

    def _issue(self, fields: Mapping[str, str]) -> _IssuedToken:
        """Issue the token that these fields ask for.

        Raises:
            _TokenRefusedError: The grant type, the client or the scope is refused.
        """
        if fields["grant_type"] != "client_credentials":
            raise _TokenRefusedError(
                "unsupported_grant_type", "grant_type must be client_credentials"
            )
        client = self._authenticate(fields)
        scope = _permitted_scope(fields["scope"], client)
        issued = self._sign(client.client_id, scope)
        with self._lock:
            self._issued[fingerprint(issued.token)] = issued
        return issued

    def _authenticate(self, fields: Mapping[str, str]) -> Client:
        """Return the client; which of the three credentials is wrong stays untold."""
        client = self._clients.get(fields["client_id"])
        with self._lock:
            accepted = self._accepted_secrets.get(fields["client_id"], ())
        matches = [_equals(fields["client_secret"], secret) for secret in accepted]
        if (
            client is None
            or not any(matches)
            or not _equals(fields["dealtrack_registration_id"], client.dealtrack_registration_id)
        ):
            raise _TokenRefusedError(
                "invalid_client",
                "unknown client, wrong secret or wrong registration id",
                HTTPStatus.UNAUTHORIZED,
            )
        return client

    def _sign(self, client_id: str, scope: str) -> _IssuedToken:
        now = self._clock()
        lifetime = self._token_lifetime
        # Rounded away from each other: never issued in the future, never dead before expires_in.
        expires_at = math.ceil((now + lifetime).timestamp())
        claims = {
            "iss": ISSUER,
            "sub": client_id,
            "iat": math.floor(now.timestamp()),
            "exp": expires_at,
            "jti": str(uuid.uuid4()),
            "scope": scope,
        }
        return _IssuedToken(
            token=jwt.encode(claims, self._key, algorithm=self._signature),
            client_id=client_id,
            scope=scope,
            expires_at=expires_at,
            expires_in=int(lifetime.total_seconds()),
        )

    def _respond_to_api_request(self, request: Request, route: _Route) -> Response:
        at = self._clock()
        token = _bearer_token(request)
        response = self._api_response(request, route, token, at)
        self._see(
            ApiRequestSeen(
                at=at,
                path=request.path,
                status=response.status_code,
                fingerprint=None if token is None else fingerprint(token),
            )
        )
        return response

    def _api_response(
        self, request: Request, route: _Route, token: str | None, now: datetime
    ) -> Response:
        if request.method != route.method:
            return _api_error(
                HTTPStatus.METHOD_NOT_ALLOWED,
                "method_not_allowed",
                f"only {route.method} is implemented here",
                {"Allow": route.method},
            )
        issued = None if token is None else self._live_token(token, now)
        if issued is None:
            return _api_error(
                HTTPStatus.UNAUTHORIZED,
                "invalid_token",
                "the token is missing, malformed, expired or revoked",
                {"WWW-Authenticate": 'Bearer error="invalid_token"'},
            )
        if route.scope not in issued.scope.split(" "):
            return _api_error(
                HTTPStatus.FORBIDDEN,
                "insufficient_scope",
                f"the token does not carry {route.scope}",
                {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{route.scope}"'},
            )
        return route.respond(issued.client_id, now)

    def _live_token(self, token: str, now: datetime) -> _IssuedToken | None:
        """Return what was issued with a token that is good now, or None.

        The token must be one that was issued, byte for byte. That takes in the signature, and
        refuses what a signature lets through: a respelling of a revoked token's base64url.
        """
        name = fingerprint(token)
        with self._lock:
            issued = self._issued.get(name)
            is_revoked = name in self._revoked
        if issued is None or is_revoked or not _equals(token, issued.token):
            return None
        if now.timestamp() >= issued.expires_at:
            return None
        return issued

    def _see(self, seen: TokenRequestSeen | ApiRequestSeen) -> None:
        with self._lock:
            if isinstance(seen, TokenRequestSeen):
                self._token_requests.append(seen)
            else:
                self._api_requests.append(seen)


# Reading requests


def _read_fields(request: Request, body: bytes) -> dict[str, str]:
    """Return the form's fields, each of which was sent exactly once and not empty.

    Raises:
        _TokenRefusedError: Not such a form (RFC 6749 sections 3.2 and 5.2).
    """
    if request.method != "POST":
        raise _TokenRefusedError(
            "invalid_request", "the method must be POST", HTTPStatus.METHOD_NOT_ALLOWED
        )
    if request.mimetype != _FORM:
        raise _TokenRefusedError("invalid_request", f"the body must be {_FORM}")
    pairs = _decode_form(body)
    names = [name for name, _ in pairs]
    for position, name in enumerate(names, start=1):
        # Not named: behind a secret with a bare "&", the "name" is a piece of that secret.
        if name not in _FIELDS:
            raise _TokenRefusedError(
                "invalid_request", f"field {position} of {len(names)} is unknown"
            )
    fields = dict(pairs)
    for name in _FIELDS:
        if name not in fields:
            raise _TokenRefusedError("invalid_request", f"{name} is missing")
        if names.count(name) > 1:
            raise _TokenRefusedError("invalid_request", f"{name} is repeated")
        if not fields[name]:
            raise _TokenRefusedError("invalid_request", f"{name} is empty")
    return fields


def _decode_form(body: bytes) -> list[tuple[str, str]]:
    """Decode a form that has no slips: ASCII, whole escapes, UTF-8 inside them, `=` in each pair.

    The slips that a lenient parser forgives are how an unencoded secret goes unnoticed.
    """
    try:
        text = body.decode("ascii")
        if _BROKEN_PERCENT.search(text):
            raise ValueError("broken percent-encoding")
        if not text:
            return []
        return parse_qsl(
            text, keep_blank_values=True, strict_parsing=True, encoding="utf-8", errors="strict"
        )
    except ValueError:  # its message may quote the body, so no cause goes along
        raise _TokenRefusedError(
            "invalid_request", f"the body is not well-formed {_FORM} in UTF-8"
        ) from None


def _permitted_scope(requested: str, client: Client) -> str:
    """Return the requested scope, sorted and without doubles: order has no meaning.

    Raises:
        _TokenRefusedError: It is malformed, or the client is not permitted all of it.
    """
    scopes = set(requested.split(" "))
    if not all(_SCOPE_TOKEN.fullmatch(scope) for scope in scopes):
        raise _TokenRefusedError("invalid_scope", "scope is malformed")
    if not scopes <= client.permitted_scopes:
        raise _TokenRefusedError("invalid_scope", "scope is unknown or not permitted")
    return " ".join(sorted(scopes))


def _bearer_token(request: Request) -> str | None:
    """Return what follows `Bearer` in the Authorization header (RFC 6750 section 2.1)."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" and token else None


def _new_key(signature: Signature) -> bytes | rsa.RSAPrivateKey:
    if signature == "HS256":
        return secrets.token_bytes(32)
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _equals(left: str, right: str) -> bool:
    """Compare in constant time, as bytes: compare_digest refuses text outside ASCII."""
    return hmac.compare_digest(left.encode(), right.encode())


# Writing responses


def _token_endpoint_response(status: int, body: Mapping[str, object]) -> Response:
    response = Response(json.dumps(body), status=status, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    response.headers["Pragma"] = "no-cache"
    return response


def _token_response(issued: _IssuedToken) -> Response:
    """RFC 6749 section 5.1."""
    return _token_endpoint_response(
        HTTPStatus.OK,
        {
            "access_token": issued.token,
            "token_type": "bearer",
            "expires_in": issued.expires_in,
            "scope": issued.scope,
        },
    )


def _refusal_response(refused: _TokenRefusedError) -> Response:
    """RFC 6749 section 5.2."""
    response = _token_endpoint_response(
        refused.status, {"error": refused.error, "error_description": refused.description}
    )
    if refused.status == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["Allow"] = "POST"
    return response


def _outage_response(outage: Outage) -> Response:
    """Return what a gateway in front of a broken endpoint says: plain text, no OAuth error."""
    if outage.status is None:
        raise ConnectionAbortedError("an outage closes this connection unanswered")
    response = Response("not now\n", status=outage.status, content_type="text/plain")
    if outage.retry_after is not None:
        response.headers["Retry-After"] = str(math.ceil(outage.retry_after.total_seconds()))
    return response


def _resources(area: _Area) -> Response:
    return Response(json.dumps({"data": area.resources}), content_type=_JSON_API)


def _job_response(job_id: str, status: HTTPStatus) -> Response:
    """Return a job that goes on (JSON:API, "Asynchronous Processing")."""
    job = {"type": "queue-jobs", "id": job_id, "attributes": {"status": "processing"}}
    response = Response(json.dumps({"data": job}), status=status, content_type=_JSON_API)
    response.headers["Retry-After"] = "1"
    return response


def _not_found() -> Response:
    return _api_error(HTTPStatus.NOT_FOUND, "not_found", "there is no such resource")


def _api_error(
    status: HTTPStatus, code: str, title: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a JSON:API error document (jsonapi.org, "Error Objects")."""
    return Response(
        json.dumps({"errors": [{"status": str(status.value), "code": code, "title": title}]}),
        status=status,
        headers=headers,
        content_type=_JSON_API,
    )


class _QuietRequestHandler(WSGIRequestHandler):
    """Logs no requests, and really closes a connection that the application aborts."""

    @override
    def log(self, type: str, message: str, *args: object) -> None:
        """Drop the line; faults of the application still reach the server's own log."""

    @override
    def connection_dropped(
        self, error: BaseException, environ: WSGIEnvironment | None = None
    ) -> None:
        """End the connection: by itself werkzeug would wait for its next request."""
        self.close_connection = True


# The command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the fake Enable until Ctrl-C or SIGTERM, and return the exit status."""
    parser = _argument_parser()
    options = parser.parse_args(arguments)
    try:
        _serve(options)
    except KeyboardInterrupt:
        print("stopped", flush=True)
    except FileExistsError:
        parser.error(f"{options.write_client} exists: give it as --client, or remove it")
    except (OSError, OverflowError, ValueError) as fault:
        parser.error(str(fault))
    return 0


def _serve(options: argparse.Namespace) -> None:
    """Serve until a signal ends it with KeyboardInterrupt."""
    client = _random_client() if options.client is None else _load_client(options.client)
    lifetime = timedelta(seconds=options.token_lifetime_seconds)
    # Both the same, and SIGINT again: a shell starts background jobs with it ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with FakeEnable(
        client, token_lifetime=lifetime, port=options.port, signature=options.signature
    ) as fake_enable:
        if options.write_client is not None:
            _write_client(client, options.write_client)
        _print_addresses(fake_enable, options.client or options.write_client)
        threading.Event().wait()


def _argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m local.fake_enable",
        description="Serve the token endpoint and the API of a fake Enable on loopback.",
    )
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument(
        "--token-lifetime-seconds",
        type=int,
        default=int(DEFAULT_TOKEN_LIFETIME.total_seconds()),
        metavar="SECONDS",
        help="how long a token lives (default: %(default)s)",
    )
    parser.add_argument(
        "--signature",
        choices=get_args(Signature.__value__),
        default="HS256",
        help="of the tokens (default: %(default)s, as in Enable's published examples)",
    )
    credentials = parser.add_mutually_exclusive_group()
    credentials.add_argument(
        "--client",
        type=Path,
        metavar="FILE",
        help="JSON with client_id, client_secret, dealtrack_registration_id and, if not all "
        "scopes are permitted, permitted_scopes; without it, credentials are made at random",
    )
    credentials.add_argument(
        "--write-client",
        type=Path,
        metavar="FILE",
        help="write the random credentials to this new file (mode 0600)",
    )
    return parser


def _random_client() -> Client:
    return Client(
        client_id=str(uuid.uuid4()),
        client_secret=secrets.token_urlsafe(32),
        dealtrack_registration_id=str(uuid.uuid4()),
    )


def _load_client(path: Path) -> Client:
    """Read a client from its JSON file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It does not describe a client; the message contains no value of it.
    """
    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        raise ValueError(f"{path} is not JSON") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path} must contain a JSON object")
    scopes = document.pop("permitted_scopes", list(SCOPES))
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        raise ValueError(f"permitted_scopes in {path} must be a list of strings")
    if set(document) != set(_CREDENTIAL_FIELDS):
        raise ValueError(f"{path} must contain {', '.join(_CREDENTIAL_FIELDS)} and no other field")
    return Client(permitted_scopes=frozenset(scopes), **document)


def _write_client(client: Client, path: Path) -> None:
    """Write the credentials to a new file that only its owner can read.

    The JSON is the broker's secret as it is stored in AWS, so that the file can be stored there.

    Raises:
        FileExistsError: The file exists; it is not overwritten, since its mode may be wider.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({name: getattr(client, name) for name in _CREDENTIAL_FIELDS}, file, indent=2)
        file.write("\n")


def _print_addresses(fake_enable: FakeEnable, client_file: Path | None) -> None:
    print(f"token endpoint  {fake_enable.token_url}")
    for path, area in _AREAS.items():
        print(f"{area.scope:<15} {fake_enable.url}{path}")
    print(f"credentials     {client_file or 'random and kept nowhere: see --write-client'}")
    print("Ctrl-C stops it.", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
