"""The built artifacts, as Lambda would load them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deployed.conftest import Deployed

FUNCTIONS = {
    "TokenRefresherFunction": "token_refresher.app",
    "TokenVendorFunction": "token_vendor.app",
}
PROBE = """
import json, os, sys
before = set(sys.modules)
sys.path[:0] = sys.argv[2:]
module = __import__(sys.argv[1], fromlist=["lambda_handler"])
specs = [m.__spec__ for n, m in sys.modules.items() if n not in before and m.__spec__]
print(json.dumps({
    "handler": callable(module.lambda_handler),
    "files": [s.origin for s in specs if s.has_location],
    "uncached": [s.origin for s in specs if s.cached and not os.path.exists(s.cached)],
}))
"""


@pytest.mark.parametrize("function", FUNCTIONS)
def test_function_starts_with_itself_the_layer_and_the_standard_library(
    deployed: Deployed, function: str
):
    build = deployed.stack.build_folder
    path = [str(build / function), str(build / "SharedLayer" / "python")]
    python = deployed.stack.aws.folder / "lambda-python" / "bin" / "python"
    run = subprocess.run(
        [python, "-I", "-B", "-c", PROBE, FUNCTIONS[function], *path],
        capture_output=True,
        text=True,
        check=False,
        env={"AWS_DEFAULT_REGION": "eu-west-1"},
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["handler"]
    standard = Path(json.__file__).parent.parent
    foreign = [f for f in found["files"] if not f.startswith((*path, str(standard)))]
    assert [f for f in foreign if "lambda-python" in f or "site-packages" in f] == []
    assert [f for f in found["uncached"] if f.startswith(tuple(path))] == []


def test_vendor_does_not_carry_pydantic(deployed: Deployed):
    build = deployed.stack.build_folder
    assert not list((build / "TokenVendorFunction").rglob("pydantic*"))
    assert not list((build / "SharedLayer").rglob("pydantic*/__init__.py"))


def test_refresher_runs_on_both_architectures(deployed: Deployed):
    core = deployed.stack.build_folder / "TokenRefresherFunction" / "pydantic_core"
    assert {re.search(r"x86_64|aarch64", f.name).group() for f in core.glob("*.so")} == {
        "x86_64",
        "aarch64",
    }


def test_faulty_grants_stop_the_build(deployed: Deployed, tmp_path: Path):
    source = deployed.stack.source
    for name in ("template.yaml", "samconfig.toml", "Makefile"):
        shutil.copy(source / name, tmp_path / name)
    for name in ("functions", "clients", "requirements", ".venv"):
        (tmp_path / name).symlink_to(source / name)
    shutil.copytree(source / "layers", tmp_path / "layers")
    grants = tmp_path / "layers" / "shared" / "grants.toml"
    grants.write_text('[grants.deals]\nscope = ["read deals"]\n')
    run = subprocess.run(
        [source / ".venv" / "bin" / "sam", "build", "SharedLayer"],
        cwd=tmp_path,
        env=deployed.stack.aws.environ(deployed.stack.account)
        | {"PATH": f"{source / '.venv' / 'bin'}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "grants.toml: grants.deals: scope 'read deals' is not a scope-token" in (
        run.stdout + run.stderr
    )
