"""`broker secret set`: a new client secret becomes current only after Enable has taken it."""

import getpass
import json
import signal
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Self

import typer
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import TypeAdapter

from broker_cli import trial
from broker_cli.aws import CONFIG, Stack
from broker_cli.console import say, working
from broker_cli.failures import ExitCode, Failure
from broker_cli.options import Grants, StackName, examples, help_of, read_grants
from token_broker.aws import describe_fault
from token_broker.grants import DEFAULT_CONNECTION
from token_refresher.credentials import CURRENT, ClientCredentials
from token_refresher.enable.validation import validate_json

if TYPE_CHECKING:
    from types_boto3_secretsmanager import SecretsManagerClient

PENDING: Final = "AWSPENDING"
_FIELDS: Final = ("client_id", "client_secret", "dealtrack_registration_id")
_ADAPTER: Final = TypeAdapter(ClientCredentials)

app = typer.Typer(help="The client secret that Enable hands out.", no_args_is_help=True)


@app.callback()
def _secret() -> None:
    """Make `set` a command of its own, though it is the only one."""


class Candidate:
    """A version of a secret on its way to be the current one.

    A context manager: whatever ends the block early, the version loses its label again and no
    version's label has changed.
    """

    def __init__(self, client: "SecretsManagerClient", name: str) -> None:
        self._client = client
        self._name = name
        self._id = str(uuid.uuid4())
        self._before: dict[str, str] = {}
        self.is_current = False

    def __enter__(self) -> Self:
        """Note which version is current, and which was pending."""
        try:
            secret = self._client.describe_secret(SecretId=self._name)
        except self._client.exceptions.ResourceNotFoundException:
            raise Failure(
                f"there is no secret {self._name}",
                "create it with the stack's key, as docs/connections.md says",
                ExitCode.AWS,
            ) from None
        stages = secret.get("VersionIdsToStages", {})
        self._before = {label: version for version, labels in stages.items() for label in labels}
        return self

    def store(self, text: str) -> None:
        """Store the value as pending."""
        self._client.put_secret_value(
            SecretId=self._name,
            SecretString=text,
            VersionStages=[PENDING],
            ClientRequestToken=self._id,
        )

    def promote(self) -> None:
        """Make it the current version; AWS refuses if another one has become that meanwhile."""
        self._client.update_secret_version_stage(
            SecretId=self._name,
            VersionStage=CURRENT,
            MoveToVersionId=self._id,
            RemoveFromVersionId=self._before[CURRENT],
        )
        self.is_current = True

    def __exit__(self, *_error: object) -> None:
        """Take the pending label off, and give it back to the version that had it."""
        before = None if self.is_current else self._before.get(PENDING)
        with _uninterrupted():
            try:
                if before:
                    self._client.update_secret_version_stage(
                        SecretId=self._name,
                        VersionStage=PENDING,
                        MoveToVersionId=before,
                        RemoveFromVersionId=self._id,
                    )
                else:
                    self._client.update_secret_version_stage(
                        SecretId=self._name, VersionStage=PENDING, RemoveFromVersionId=self._id
                    )
            except (ClientError, BotoCoreError) as error:
                # Not there: it was never stored, or AWS has taken the label off by itself.
                gone = {"ResourceNotFoundException", "InvalidParameterException"}
                if describe_fault(error)[0] not in gone:
                    say(f"the version {self._id} keeps the label {PENDING}", stderr=True)
                    raise


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let no second Ctrl-C stop the tidying up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def set_secret(
    stack: StackName,
    grants_file: Grants,
    connection: Annotated[
        str, typer.Option(help="The connection, as grants.toml names it.")
    ] = DEFAULT_CONNECTION,
    from_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Read the JSON object from a file; - is standard input."),
    ] = None,
) -> None:
    """Store Enable's credentials if Enable accepts them.

    Asks for client_id, client_secret and dealtrack_registration_id without showing them, or
    reads a JSON object of the three. Stores them as AWSPENDING, requests a token with them from
    this machine and drops it, then makes them AWSCURRENT. If Enable refuses them, the current
    secret stays.
    """
    with working("looking"):
        opened, file = Stack.open(stack), read_grants(grants_file)
    url = trial.token_url(opened, file, connection)
    grants = {name: grant for name, grant in file.grants.items() if grant.connection == connection}
    if not grants:
        raise Failure(
            f"no grant uses the connection {connection}, so its secret cannot be tried",
            "name one in grants.toml (docs/connections.md)",
            ExitCode.USAGE,
        )
    credentials = _checked(_read(from_file))
    if credentials.padded:
        say(trial.padding(credentials), style="yellow", stderr=True)
    client = opened.session.client("secretsmanager", config=CONFIG)
    with Candidate(client, opened.secret_name(connection)) as candidate:
        with working("storing it as AWSPENDING"):
            candidate.store(json.dumps(asdict(credentials)))
        with working("asking Enable for a token with it"):
            tried = trial.try_out(credentials, url, grants)
        if not tried.grant:
            raise Failure(
                f"not stored: {tried.response}",
                "the current secret is as it was; check the credentials, or the way to Enable",
            )
        candidate.promote()
    say(f"Enable took it (a token for {tried.grant}); it is the current secret of {connection} now")
    for name, cause in tried.refused.items():
        say(f"but not for {name}: {cause}", style="yellow", stderr=True)
    _renew(opened, connection)


def _renew(stack: Stack, connection: str) -> None:
    """Start what the moved label starts too: of the two runs, the second finds nothing to do."""
    name = stack.secret_name(connection)
    stack.start_refresh(
        {"source": "aws.secretsmanager", "detail-type": "broker secret set", "resources": [name]}
    )
    say("a run that renews its grants has been started: `broker status` shows how it goes")


def _read(from_file: str | None) -> str:
    """The JSON object, as given or made of what is typed in."""
    if from_file is None:
        return _ask()
    try:
        if from_file == "-":
            return sys.stdin.read()
        return Path(from_file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(
            f"{from_file} cannot be read ({type(error).__name__})",
            "name a file of UTF-8 JSON, or - for standard input",
            ExitCode.USAGE,
        ) from None


def _ask() -> str:
    if not sys.stdin.isatty():
        raise Failure(
            "there is no terminal to ask at",
            "give the JSON with --from-file FILE, or --from-file - for standard input",
            ExitCode.USAGE,
        )
    say("Nothing that you type or paste is shown.", stderr=True)
    return json.dumps({name: getpass.getpass(f"{name}: ") for name in _FIELDS})


def _checked(text: str) -> ClientCredentials:
    """The credentials in a JSON object; the message quotes nothing of it."""
    try:
        return validate_json(_ADAPTER, text)
    except ValueError as error:
        fault = str(error)
    raise Failure(
        f"not stored: {fault}",
        f"give a JSON object with {', '.join(_FIELDS)}",
        ExitCode.USAGE,
    )


app.command(
    "set",
    help=help_of(set_secret),
    epilog=examples(
        "broker secret set",
        "broker secret set --from-file ~/enable.json && rm ~/enable.json",
        "pass show enable | broker secret set --from-file -",
        "broker secret set --connection uat",
    ),
)(set_secret)
