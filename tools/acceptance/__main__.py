"""The command line of `make acceptance`: a plan, a question, a run, and its end."""

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from broker_cli.aws import new_session
from tools.acceptance.account import Account
from tools.acceptance.life import STEP_ERRORS, Life, Options, describe

COST: Final = """\
It takes about an hour and a half, most of it waiting for Lambda's retries and for CloudFormation,
and costs less than 1 USD: three stacks for that time, and keys that wait a week for deletion.
Everything is removed at the end, also after a failure or Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it.

    Returns:
        0 if all was as promised; 1 if not, or if something is left; 2 if it did not begin;
        130 if it was interrupted.
    """
    parser = _parser()
    typed = parser.parse_args(arguments)
    options = _options(typed)
    if len({*options.regions}) == 1:
        parser.error("the two Regions are the same: give another --second-region")
    with tempfile.TemporaryDirectory(prefix="acceptance-") as folder:
        build = typed.build_dir or Path(folder) / "build"
        try:
            account = Account(build)
            life = Life(account, options)
            left = life.leftovers()
        except STEP_ERRORS as error:
            print(f"error: {describe(error)}", file=sys.stderr)
            return 2
        if typed.clean:
            return _clean(life)
        if left:
            print(f"there is of an earlier run: {', '.join(left)}", file=sys.stderr)
            print("next:  python -m tools.acceptance --clean", file=sys.stderr)
            return 2
        if not _is_confirmed(account, life, is_asked=not typed.yes):
            return 2
        return _run(life)


def _run(life: Life) -> int:
    code = 0
    try:
        life.run()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        code = 130
    except Exception as error:
        print(f"\n✗ {describe(error)}", file=sys.stderr)
        code = 1
    for line in dict.fromkeys(life.broken):
        print(f"✗ {line}")
    cleaned = _clean(life)
    if not code and not cleaned and not life.broken:
        print("\nall was as promised")
    return code or cleaned or int(bool(life.broken))


def _clean(life: Life) -> int:
    """Remove everything; a second Ctrl-C does not stop it."""
    before = [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)]
    print("\nremoving everything; this takes some minutes and cannot be interrupted", flush=True)
    try:
        left = life.clean()
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    for line in left:
        print(f"✗ not removed: {line}", file=sys.stderr)
    if left:
        print("next:  python -m tools.acceptance --clean", file=sys.stderr)
    return int(bool(left))


def _is_confirmed(account: Account, life: Life, *, is_asked: bool) -> bool:
    print(f"In the account {account.id}, as its administrator:\n")
    for number, (text, _) in enumerate(life.steps(), 1):
        print(f"  {number}. {text}")
    print(f"\nAfter each step, `broker verify` for each stack that is there.\n{COST}")
    if not is_asked:
        return True
    if not sys.stdin.isatty():
        print("next:  give --yes, there is no terminal to ask on", file=sys.stderr)
        return False
    try:
        return input("Type the account's id to go on: ").strip() == account.id
    except (EOFError, KeyboardInterrupt):
        print(file=sys.stderr)
        return False


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _options(typed: argparse.Namespace) -> Options:
    credentials = typed.credentials.read_text(encoding="utf-8") if typed.credentials else None
    first = typed.region or new_session().region_name or "eu-west-1"
    return Options(
        regions=(first, typed.second_region),
        credentials=credentials,
        parameters=dict(pair.split("=", 1) for pair in typed.parameter),
        grant=typed.grant,
        is_built=typed.build_dir is not None,
        is_read_only=typed.read_only,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.acceptance", description=__doc__)
    add = parser.add_argument
    add("--yes", action="store_true", help="ask nothing")
    add("--clean", action="store_true", help="remove what an earlier run left, and end")
    add("--region", help="the first Region; by default that of the AWS environment")
    add("--second-region", default="eu-central-1", help="the second (eu-central-1)")
    add("--credentials", type=Path, metavar="FILE", help="Enable's, JSON: tokens are tried as well")
    add("--grant", default="deals", help="whose token must be served (deals)")
    add("--parameter", action="append", default=["Architecture=arm64"], metavar="KEY=VALUE")
    add("--read-only", action="store_true", help="verify without --active: half an hour")
    add("--build-dir", type=Path, help="of a finished `sam build`")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    raise SystemExit(main())
