"""`make release` writes dist/: all that a deployment without a clone needs, with its sums.

The same source gives the same bytes on any machine, whatever the path and the day. `--check` shows
it: it builds the release again from a copy on another path, compares the sums, and installs the
wheels into an empty environment.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from samcli.yamlhelper import yaml_parse

from broker_cli.archives import files_of, zipped
from broker_cli.deploy import BUCKET, PREFIX, SUMS, TEMPLATE
from tools import sbom
from tools.sam import run_sam

ROOT: Final = Path(__file__).resolve().parent.parent
WHEELS: Final = (".", "clients/python", "iac/cdk")
NODE: Final = "clients/node"
VERIFY: Final = f"sha256sum --check {SUMS}"

_FOR_OPERATORS: Final = ("enable_broker_client-*.whl", "enable_token_broker-*.whl")
_BUILD_SECONDS: Final = 600.0
_EPOCH: Final = "315532800"
"""The first moment that a zip file can name, 1980-01-01, as SOURCE_DATE_EPOCH."""

_LOCATIONS: Final = {
    BUCKET: {"Type": "String", "Description": "S3 bucket that contains the release's zip files."},
    PREFIX: {
        "Type": "String",
        "Default": "enable-token-broker/",
        "Description": "What the names of those files begin with in the bucket.",
    },
}


class NoRelease(Exception):
    """There is no release; the message says why."""


def versions(root: Path) -> dict[str, str]:
    """Where the version stands, and which it is."""
    found = {
        f"{folder}/pyproject.toml".removeprefix("./"): _toml(root / folder)["project"]["version"]
        for folder in WHEELS
    }
    template = yaml_parse((root / "template.yaml").read_text(encoding="utf-8"))
    application = template["Metadata"]["AWS::ServerlessRepo::Application"]
    found["template.yaml, SemanticVersion"] = application["SemanticVersion"]
    own = _toml(root)["project"]["dependencies"]
    (found["pyproject.toml, enable-broker-client"],) = (
        needed.partition("==")[2] for needed in own if needed.startswith("enable-broker-client==")
    )
    package = root / NODE / "package.json"
    if package.is_file():
        found[f"{NODE}/package.json"] = json.loads(package.read_text(encoding="utf-8"))["version"]
    return found


def _toml(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def check_version(root: Path) -> str:
    """The one version of all that is released.

    Raises:
        NoRelease: two versions differ, or CHANGELOG.md's newest section is not about it.
    """
    found = versions(root)
    version = found["pyproject.toml"]
    if others := {where: other for where, other in found.items() if other != version}:
        listed = ", ".join(f"{other} ({where})" for where, other in others.items())
        raise NoRelease(f"the version is {version} in pyproject.toml, but {listed}; make them one")
    log = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    section, _, after = log.partition("\n## [")[2].partition("\n## [")
    if section.startswith("Unreleased]") and not re.search(r"(?m)^- ", section):
        section = after
    if not section.startswith(f"{version}]"):
        name = section.partition("]")[0]
        raise NoRelease(
            f"the newest changes in CHANGELOG.md are under [{name}], not under [{version}]; "
            f"move them under '## [{version}] - YYYY-MM-DD', or make a draft: make release DRAFT=1"
        )
    return version


def write_artifacts(build: Path, dist: Path) -> dict[str, str]:
    """Zip what `sam build` built; the name of each artifact's file, which contains its hash."""
    names = {}
    for folder in sorted(path for path in build.iterdir() if path.is_dir()):
        content = zipped(files_of(folder))
        digest = hashlib.sha256(content).hexdigest()[:12]
        names[folder.name] = f"{folder.name}-{digest}.zip"
        (dist / names[folder.name]).write_bytes(content)
    return names


def write_template(root: Path, names: dict[str, str], dist: Path) -> None:
    """The template with its artifacts in a bucket, as JSON, which has no comments."""
    template = yaml_parse((root / "template.yaml").read_text(encoding="utf-8"))
    del template["Metadata"]["AWS::ServerlessRepo::Application"]  # of `sam publish`, from source
    template["Parameters"] |= _LOCATIONS
    groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    groups.append({"Label": {"default": "Release"}, "Parameters": list(_LOCATIONS)})
    for logical_id, name in names.items():
        resource = template["Resources"][logical_id]
        del resource["Metadata"]
        (uri,) = {"CodeUri", "ContentUri"} & resource["Properties"].keys()
        key = {"Fn::Sub": f"${{{PREFIX}}}{name}"}
        resource["Properties"][uri] = {"Bucket": {"Ref": BUCKET}, "Key": key}
    (dist / TEMPLATE).write_text(_in_lines(template), encoding="utf-8")


def _in_lines(template: dict[str, Any]) -> str:
    """A template as JSON with a line for each parameter, resource and output."""

    def compact(value: object) -> str:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    def section(value: object) -> str:
        if not isinstance(value, dict):
            return compact(value)
        lines = (f"{compact(name)}:{compact(item)}" for name, item in value.items())
        return "{\n" + ",\n".join(lines) + "\n}"

    sections = (f"{compact(name)}:{section(value)}" for name, value in template.items())
    return "{\n" + ",\n".join(sections) + "\n}\n"


def write_wheels(root: Path, dist: Path) -> None:
    """The wheels of `broker` and of the Python client."""
    hatchling = Path(sys.executable).parent / "hatchling"
    for folder in WHEELS:
        with tempfile.TemporaryDirectory() as built:
            _run(hatchling, "build", "-t", "wheel", "-d", built, cwd=root / folder)
            (wheel,) = Path(built).iterdir()
            (dist / wheel.name).write_bytes(_stored(wheel))


def _stored(wheel: Path) -> bytes:
    """A wheel's files, in its order, without what depends on the machine that zipped them."""
    with zipfile.ZipFile(wheel) as archive:
        return zipped((name, archive.read(name)) for name in archive.namelist())


def write_node(root: Path, dist: Path) -> None:
    """The Node package, where there is one and node to pack it."""
    package = root / NODE
    if not (package / "package.json").is_file():
        print(f"no Node package: there is no {NODE}")
    elif not shutil.which("npm"):
        print("no Node package: npm is not on the PATH")
    else:
        _run("make", "--silent", "node-client", cwd=root)
        _run("npm", "pack", "--pack-destination", dist, cwd=root / ".node")


def write_sums(dist: Path) -> None:
    """SHA256SUMS, of all files."""
    lines = [
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in files_of(dist)
        if name != SUMS
    ]
    (dist / SUMS).write_text("".join(lines), encoding="utf-8")


def write_release(root: Path, dist: Path) -> None:
    """Everything, from a source tree.

    Raises:
        NoRelease: a wheel or the Node package cannot be built.
        ToolFailed: `sam build` failed.
    """
    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as build:
        run_sam("build", "--build-dir", build, cwd=root, environ=os.environ, seconds=_BUILD_SECONDS)
        write_template(root, write_artifacts(Path(build), dist), dist)
    write_wheels(root, dist)
    write_node(root, dist)
    sbom.write_bills(dist)
    write_sums(dist)


def check_release(dist: Path) -> Iterator[str]:
    """Show that a release is the same bytes elsewhere, and that its wheels need no clone.

    Yields:
        What was shown, a line each.

    Raises:
        NoRelease: something does not.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "another" / "path"
        _copy_source(copy)
        write_release(copy, copy / "dist")
        first, second = _digests(dist), _digests(copy / "dist")
        if differing := {name for name, digest in second.items() if first.get(name) != digest}:
            raise NoRelease(f"built again elsewhere, these differ: {', '.join(sorted(differing))}")
        yield f"{len(second)} files have the same bytes when they are built from another path"
        _install(dist, Path(folder) / "empty")
        yield "the wheels install into an empty environment, and broker runs without a clone"


def _copy_source(copy: Path) -> None:
    listed = _run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    (copy / ".venv").symlink_to(ROOT / ".venv")


def _digests(dist: Path) -> dict[str, str]:
    lines = (dist / SUMS).read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _install(dist: Path, empty: Path) -> None:
    uv = Path(sys.executable).parent / "uv"
    python = empty / "bin" / "python"
    _run(uv, "venv", "--quiet", "--python", sys.executable, empty, cwd=empty.parent)
    wheels = [file for name in _FOR_OPERATORS for file in dist.glob(name)]
    _run(uv, "pip", "install", "--quiet", "--python", python, *wheels, cwd=empty)
    _run(empty / "bin" / "broker", "grants", "init", cwd=empty)
    _run(empty / "bin" / "broker", "grants", "check", cwd=empty)
    _run(python, "-I", "-c", "from enable_broker_client import TokenSource", cwd=empty)


def _run(*command: str | Path, cwd: Path) -> str:
    own = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    run = subprocess.run(
        command,
        cwd=cwd,
        env=own | {"SOURCE_DATE_EPOCH": _EPOCH},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        printed = f"{run.stdout}{run.stderr}"[-3000:]
        raise NoRelease(f"{Path(command[0]).name} {command[1]} failed:\n{printed}")
    return run.stdout


def main() -> None:
    """Write dist/, or check it.

    Raises:
        SystemExit: there is no release; the message says why.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draft", action="store_true", help="whatever CHANGELOG.md says")
    parser.add_argument("--check", action="store_true", help="build dist/ again elsewhere")
    options = parser.parse_args()
    dist = ROOT / "dist"
    try:
        if options.check:
            for line in check_release(dist):
                print(line)
            return
        name = "draft" if options.draft else check_version(ROOT)
        write_release(ROOT, dist)
    except NoRelease as error:
        raise SystemExit(f"no release: {error}") from None
    print(f"dist/: {name}, {len(list(dist.iterdir()))} files")
    print(f"verify: cd dist && {VERIFY}")


if __name__ == "__main__":
    main()
