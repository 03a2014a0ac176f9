"""The built artifacts, as Lambda would load them."""

import email
import hashlib
import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from samcli.lib.package.utils import make_zip_with_lambda_permissions

from tests.deployed.conftest import Deployed
from tools import sbom

FUNCTIONS = {
    "TokenRefresherFunction": "token_refresher.app",
    "TokenVendorFunction": "token_vendor.app",
}
LAYERS = ("SharedLayer", "GrantsLayer")
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
    path = [str(build / function), *(str(build / name / "python") for name in LAYERS)]
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


def _contents(folder: Path, tmp: Path) -> dict[str, str]:
    """The entries of SAM's own zip of an artifact: name, date, mode and hash of each file.

    The order of files in it is the one that the file system lists them in.
    """
    with zipfile.ZipFile(make_zip_with_lambda_permissions(tmp / "zip", folder)) as archive:
        return {
            info.filename: f"{info.date_time} {info.external_attr:o} "
            + hashlib.sha256(archive.read(info)).hexdigest()
            for info in archive.infolist()
        }


@pytest.mark.slow("a second build of everything")
def test_same_source_gives_the_same_artifacts_wherever_it_is_built(
    deployed: Deployed, tmp_path: Path
):
    source, elsewhere = deployed.stack.source, tmp_path / "some" / "where" / "else"
    shutil.copytree(source, elsewhere, symlinks=True)
    subprocess.run(
        [source / ".venv" / "bin" / "sam", "build", "--build-dir", tmp_path / "built"],
        cwd=elsewhere,
        env=deployed.stack.aws.environ(deployed.stack.account)
        | {"PATH": f"{source / '.venv' / 'bin'}:/usr/bin:/bin"},
        check=True,
        capture_output=True,
    )
    built = sorted(f.name for f in (tmp_path / "built").iterdir() if f.is_dir())
    assert {*FUNCTIONS, *LAYERS, "EnableBrokerClientLayer"} == set(built)
    for artifact in built:
        first = _contents(deployed.stack.build_folder / artifact, tmp_path)
        assert first
        assert _contents(tmp_path / "built" / artifact, tmp_path) == first


@pytest.mark.parametrize("artifact", sbom.ARTIFACTS)
def test_artifact_contains_the_packages_of_the_sbom_and_the_licence_list(
    deployed: Deployed, artifact: str
):
    folder = deployed.stack.build_folder / artifact
    bundled = {
        f"{metadata['Name'].lower().replace('_', '-')} {metadata['Version']}"
        for file in folder.rglob("*.dist-info/METADATA")
        if (metadata := email.message_from_string(file.read_text()))
    }
    pinned = sbom.pinned(sbom.ARTIFACTS[artifact])
    assert bundled == {f"{name} {version}" for name, version in pinned.items()}
    for info in folder.rglob("*.dist-info"):
        assert [f for f in info.rglob("*") if "licen" in f.name.lower()], info.name


def test_no_other_artifact_contains_a_third_party_package(deployed: Deployed):
    for artifact in deployed.stack.build_folder.iterdir():
        if artifact.is_dir() and artifact.name not in sbom.ARTIFACTS:
            assert not list(artifact.rglob("*.dist-info"))


def test_grants_are_in_their_own_layer_alone(deployed: Deployed):
    found = deployed.stack.build_folder.glob("*/**/grants.toml")
    assert [f.relative_to(deployed.stack.build_folder) for f in found] == [
        Path("GrantsLayer/python/grants.toml")
    ]


def test_faulty_grants_stop_the_build(deployed: Deployed, tmp_path: Path):
    source = deployed.stack.source
    for name in ("template.yaml", "samconfig.toml", "Makefile"):
        shutil.copy(source / name, tmp_path / name)
    for name in ("functions", "clients", "requirements", ".venv"):
        (tmp_path / name).symlink_to(source / name)
    shutil.copytree(source / "layers", tmp_path / "layers")
    grants = tmp_path / "layers" / "grants" / "grants.toml"
    grants.write_text('[grants.deals]\nscope = ["read deals"]\n')
    run = subprocess.run(
        [source / ".venv" / "bin" / "sam", "build", "GrantsLayer"],
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
