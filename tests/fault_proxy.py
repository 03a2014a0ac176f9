"""Starts microburst, with the models of the services that the functions call and no others.

At its first request microburst reads the model of each of botocore's 414 services: 4 seconds of
processor time, and 450 MB.
"""

import sys


def command(upstream: str, port: int) -> list[str]:
    """What to run in the working tree, for a proxy on 127.0.0.1 in front of an embedded AWS."""
    return [sys.executable, "-m", __name__, "--upstream", upstream, "--port", str(port)]


if __name__ == "__main__":
    from botocore.session import Session
    from microburst.cli import main

    from tools.prune_botocore import OPERATIONS

    Session.get_available_services = lambda *_: sorted(OPERATIONS)
    sys.exit(main())
