"""The Node client as `make test` has built it; where node is missing, its tests are skipped."""

import shutil
from typing import Final

import pytest

from local.broker_stack import ROOT

BUILT: Final = ROOT / ".node"
NO_NODE: Final = "Node 20 or newer is missing, or `make node-client` has not run"


def is_built() -> bool:
    """Whether there is a Node client to test: `make node-client` makes one."""
    return (BUILT / ".built").exists() and shutil.which("node") is not None


needs_node = pytest.mark.skipif(not is_built(), reason=NO_NODE)
