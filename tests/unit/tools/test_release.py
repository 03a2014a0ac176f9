"""A release: one version, the same bytes for the same files, and a template of its own."""

import hashlib
import json
import os
import re
import shutil
import time
import zipfile
from pathlib import Path

import pytest

from broker_cli.archives import files_of, zipped
from broker_cli.deploy import SUMS, TEMPLATE, Release
from broker_cli.failures import Failure
from tools import release

ROOT = release.ROOT
WITH_VERSIONS = (
    "pyproject.toml",
    "clients/python/pyproject.toml",
    "iac/cdk/pyproject.toml",
    "template.yaml",
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The files that name a version, and a change log with the section of it."""
    for name in WITH_VERSIONS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    version = release.versions(ROOT)["pyproject.toml"]
    (tmp_path / "CHANGELOG.md").write_text(
        f"# Changelog\n\n## [Unreleased]\n\n## [{version}] - 2026-11-25\n\n- A change.\n"
    )
    return tmp_path


def test_versions_of_this_repository_are_one():
    assert len(set(release.versions(ROOT).values())) == 1


def test_release_has_the_one_version(source: Path):
    assert release.check_version(source) == release.versions(ROOT)["pyproject.toml"]


@pytest.mark.parametrize(
    ("name", "written", "instead", "cause"),
    [
        (
            "clients/python/pyproject.toml",
            r'(?m)^version = ".*"',
            'version = "9.9.9"',
            r"but 9\.9\.9 \(clients/python/pyproject\.toml\); make them one",
        ),
        (
            "template.yaml",
            "SemanticVersion: .*",
            "SemanticVersion: 9.9.9",
            r"but 9\.9\.9 \(template\.yaml, SemanticVersion\); make them one",
        ),
        (
            "pyproject.toml",
            "enable-broker-client==[0-9.]+",
            "enable-broker-client==9.9.9",
            r"but 9\.9\.9 \(pyproject\.toml, enable-broker-client\); make them one",
        ),
        (
            "CHANGELOG.md",
            r"## \[Unreleased\]\n",
            "## [Unreleased]\n\n- Another change.\n",
            r"the newest changes in CHANGELOG\.md are under \[Unreleased\]",
        ),
        ("CHANGELOG.md", r"## \[\d.*\]", "## [9.9.9]", r"are under \[9\.9\.9\], not under"),
    ],
)
def test_version_or_section_that_differs_stops_the_release_and_is_named(
    source: Path, name: str, written: str, instead: str, cause: str
):
    text, count = re.subn(written, instead, (source / name).read_text(), count=1)
    assert count == 1
    (source / name).write_text(text)
    with pytest.raises(release.NoRelease, match=cause):
        release.check_version(source)


def test_version_of_the_node_package_counts(source: Path):
    package = source / release.NODE / "package.json"
    package.parent.mkdir(parents=True)
    package.write_text('{"version": "9.9.9"}')
    with pytest.raises(release.NoRelease, match=r"9\.9\.9 \(clients/node/package\.json\)"):
        release.check_version(source)


def test_zip_is_the_same_whatever_the_order_times_and_modes_of_the_files(tmp_path: Path):
    def folder(name: str, order: tuple[str, ...], mode: int, at: float) -> Path:
        for file in order:
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file)
            path.chmod(mode)
            os.utime(path, (at, at))
        return tmp_path / name

    one = folder("one", ("b", "a/c", "a/b"), 0o600, 0)
    two = folder("two", ("a/b", "b", "a/c"), 0o755, time.time())
    assert zipped(files_of(one)) == zipped(files_of(two))
    (two / "b").write_text("another")
    assert zipped(files_of(one)) != zipped(files_of(two))


def test_zip_may_be_read_by_lambda_and_depends_on_no_version_of_zlib(tmp_path: Path):
    (tmp_path / "file.zip").write_bytes(zipped([("a/b", b"content")]))
    with zipfile.ZipFile(tmp_path / "file.zip") as archive:
        (entry,) = archive.infolist()
        assert archive.read(entry) == b"content"
    assert entry.external_attr >> 16 == 0o100644
    assert entry.compress_type == zipfile.ZIP_STORED
    assert entry.date_time == (1980, 1, 1, 0, 0, 0)


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    """A release of artifacts that are one small file each."""
    build, dist = tmp_path / "build", tmp_path / "dist"
    dist.mkdir()
    for artifact in (
        "SharedLayer",
        "GrantsLayer",
        "EnableBrokerClientLayer",
        "TokenRefresherFunction",
        "TokenVendorFunction",
    ):
        (build / artifact).mkdir(parents=True)
        (build / artifact / "file").write_text(artifact)
    release.write_template(ROOT, release.write_artifacts(build, dist), dist)
    release.write_sums(dist)
    return dist


def test_template_takes_each_artifact_from_the_bucket_by_its_hash(dist: Path):
    template = json.loads((dist / TEMPLATE).read_text())
    uris = {
        logical_id: uri
        for logical_id, resource in template["Resources"].items()
        for name, uri in resource["Properties"].items()
        if name in {"CodeUri", "ContentUri"}
    }
    files = {file.stem.partition("-")[0]: file for file in dist.glob("*.zip")}
    assert uris.keys() == files.keys()
    for artifact, uri in uris.items():
        assert uri == {
            "Bucket": {"Ref": "ArtifactBucket"},
            "Key": {"Fn::Sub": f"${{ArtifactPrefix}}{files[artifact].name}"},
        }
        digest = hashlib.sha256(files[artifact].read_bytes()).hexdigest()
        assert files[artifact].stem == f"{artifact}-{digest[:12]}"
    assert "BuildMethod" not in (dist / TEMPLATE).read_text()


def test_release_that_is_whole_is_opened(dist: Path):
    opened = Release.open(dist)
    assert len(opened.files) == 6
    digest = hashlib.sha256((dist / TEMPLATE).read_bytes()).hexdigest()
    assert opened.files[opened.template] == dist / TEMPLATE
    assert opened.template == f"template-{digest[:12]}.json"
    assert "ArtifactBucket" in opened.parameters


@pytest.mark.parametrize(
    ("file", "cause"),
    [(TEMPLATE, f"{TEMPLATE} of .* is not what"), ("SharedLayer-*.zip", "is not")],
)
def test_file_that_was_changed_after_the_release_is_named(dist: Path, file: str, cause: str):
    (changed,) = dist.glob(file)
    changed.write_bytes(changed.read_bytes() + b" ")
    with pytest.raises(Failure, match=cause):
        Release.open(dist)


@pytest.mark.parametrize("file", [SUMS, TEMPLATE, "SharedLayer-*.zip"])
def test_file_that_is_missing_is_named(dist: Path, file: str):
    (missing,) = dist.glob(file)
    missing.unlink()
    with pytest.raises(Failure, match=f"contains no whole release .*{missing.name}"):
        Release.open(dist)
