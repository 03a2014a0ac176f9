"""The Node client's own tests, run by node's own runner."""

import shutil
import subprocess
from pathlib import Path

from tests.node_client import BUILT, needs_node

pytestmark = needs_node


def test_node_clients_own_tests_pass():
    command = ["npm", "test", "--silent"]
    ended = subprocess.run(
        command, cwd=BUILT, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "\n# fail 0" in ended.stdout


def test_package_has_the_compiled_client_its_types_and_nothing_else(tmp_path: Path):
    command = ["npm", "pack", "--silent", "--pack-destination", str(tmp_path)]
    subprocess.run(command, cwd=BUILT, check=True, timeout=60, stdout=subprocess.DEVNULL)
    (archive,) = tmp_path.glob("*.tgz")
    shutil.unpack_archive(archive, tmp_path, filter="data")
    files = {path.name for path in (tmp_path / "package").rglob("*") if path.is_file()}
    assert {"index.js", "index.d.ts", "package.json", "README.md"} <= files
    assert not {"fakes.js", "matrix.js", "tsconfig.json", "source.ts"} & files
