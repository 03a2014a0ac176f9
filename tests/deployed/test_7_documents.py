"""The examples of README, docs/callers.md and the client's README, run as a reader would."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from local.broker_stack import ROOT
from local.callers import create_user
from local.embedded_aws import REGION
from tests.deployed.conftest import Deployed
from tests.node_client import BUILT, NO_NODE, is_built

BLOCK = re.compile(
    r"<!-- runs(?P<how>[^\n]*) -->\n```(?P<kind>sh|python|js|go)\n(?P<code>.*?)```", re.DOTALL
)


@dataclass(frozen=True)
class Example:
    """One marked block, and who runs it."""

    page: str
    line: int
    kind: str
    code: str
    caller: str
    is_beside_proxy: bool


def _examples(page: str) -> Iterator[Example]:
    text = (ROOT / page).read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        yield Example(
            page=page,
            line=text[: match.start("code")].count("\n") + 1,
            kind=match["kind"],
            code=match["code"],
            caller="role locked" if "a grant names" in match["how"] else "user for all",
            is_beside_proxy="proxy" in match["how"],
        )


PAGES = ("README.md", "docs/callers.md", "clients/python/README.md", "clients/node/README.md")
PROXY = "enable_broker_client.proxy_command"
COMMANDS = {
    "sh": ["bash", "-e", "-c"],
    "python": [sys.executable, "-c"],
    "js": ["node", "--input-type=module", "-e"],
    "go": ["go", "run"],
}
GO_PACKAGES = Path("/usr/share/gocode")
NO_GO = "Debian's golang-go and golang-github-aws-aws-sdk-go-v2-dev are missing"
GO = {
    "GO111MODULE": "off",
    "GOPATH": str(GO_PACKAGES),
    "GOCACHE": str(ROOT / ".go"),  # else the SDK is compiled again, for 10 s
}
EXAMPLES = [example for page in PAGES for example in _examples(page)]


def run(deployed: Deployed, example: Example, caller: str, folder: Path) -> tuple[int, str, str]:
    """Run an example with nothing set but what the page says; exit code, output, errors."""
    api, credentials = deployed.stack.api, deployed.callers[caller]
    # curl finds *.localhost by itself; Python and node need the host in a variable.
    is_curl = example.kind == "sh" and not example.is_beside_proxy
    url = f"http://{api.host}" if is_curl else api.endpoint_url
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "TOKEN_API_URL": f"{url}/{api.stage}",
        "TOKEN_API_HOST": api.host,
        "ENABLE_URL": deployed.enable.url,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
    }
    if example.is_beside_proxy:
        command = folder / "enable-broker-proxy"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m {PROXY} "$@"\n')
        command.chmod(0o755)
        environ["PATH"] = f"{folder}:{environ['PATH']}"
    if credentials.token:
        environ["AWS_SESSION_TOKEN"] = credentials.token
    if example.kind == "js":
        (folder / "node_modules").mkdir()
        (folder / "node_modules/enable-broker-client").symlink_to(BUILT)
    code = example.code
    if example.kind == "go":
        (folder / "main.go").write_text(code)
        environ, code = environ | GO, "main.go"
    ended = subprocess.run(
        [*COMMANDS[example.kind], code],
        env=environ,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,  # go compiles the SDK once
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr


def has_go_sdk() -> bool:
    return (GO_PACKAGES / "src/github.com/aws/aws-sdk-go-v2/config").is_dir()


def test_pages_have_examples_that_run():
    kinds = [(example.page, example.kind) for example in EXAMPLES]
    assert kinds.count(("docs/callers.md", "python")) >= 4
    assert kinds.count(("docs/callers.md", "sh")) >= 3
    assert ("docs/callers.md", "go") in kinds
    assert ("README.md", "python") in kinds
    assert ("clients/node/README.md", "js") in kinds
    marked = sum((ROOT / page).read_text(encoding="utf-8").count("<!-- runs") for page in PAGES)
    assert len(EXAMPLES) == marked


def test_first_call_takes_no_more_than_ten_lines():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Call it")[2].partition("\n## ")[0]
    blocks = re.findall(r"```(?:sh|python)\n(.*?)```", section, re.DOTALL)
    assert len([line for block in blocks for line in block.splitlines() if line]) <= 10


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: f"{e.page}:{e.line}")
def test_example_works_as_it_stands(renewed: Deployed, tmp_path: Path, example: Example):
    if example.kind == "js" and not is_built():
        pytest.skip(NO_NODE)
    if example.kind == "go" and not (shutil.which("go") and has_go_sdk()):
        pytest.skip(NO_GO)
    code, output, errors = run(renewed, example, example.caller, tmp_path)
    assert code == 0, errors
    if example.kind in {"sh", "go"}:
        response = json.loads(output)
        assert response.keys() & {"access_token", "grants", "data"}, response
    else:
        from_enable = "Roof tiles" in output or "'type': 'earnings'" in output
        assert from_enable or int(output) > 0  # seconds left, of a token of any lifetime


def test_example_fails_for_a_caller_that_iam_does_not_allow(renewed: Deployed, tmp_path: Path):
    example = next(example for example in EXAMPLES if example.kind == "python")
    _, _, errors = run(renewed, example, "user without policy", tmp_path)
    assert "NotAllowed" in errors


def test_policy_of_the_page_is_enough_for_the_client_and_for_nothing_else(renewed: Deployed):
    policy = (ROOT / "docs/caller-policy.json").read_text(encoding="utf-8")
    for example, real in {
        ":111122223333:": f":{renewed.stack.account}:",
        "a1b2c3d4e5": renewed.stack.api.api_id,
    }.items():
        policy = policy.replace(example, real)
    caller = create_user(renewed.stack.administrator, "as-documented", policy)
    api = renewed.stack.api
    assert api.get("/tokens/deals", caller).status == 200
    report = json.dumps({"fingerprint": "0123456789ab"}).encode()
    headers = {"Content-Type": "application/json"}
    path = "/tokens/{}/rejection"
    allowed, denied = (
        api.request(path.format(grant), caller, method="POST", headers=headers, body=report)
        for grant in ("deals", "users")
    )
    assert (allowed.status, allowed.body) == (200, {"status": "replaced"})
    assert denied.status == 403
    assert api.get("/tokens/users", caller).status == 403
    assert api.get("/grants", caller).status == 403
