"""Lambda: how long an execution environment lives."""

import sys
import threading
import time

from ministack.core import lambda_runtime
from ministack.services import lambda_svc


def end_alone() -> None:
    """End the one environment that fails to start, and no other one of its function.

    Lambda Developer Guide, "Lambda execution environment lifecycle": environments are independent.
    ministack ends all of a function, those among them that are starting, so that they fail as well
    and end the next.
    """
    invalidate = lambda_svc.invalidate_worker

    def invalidate_on_purpose(*args: object, **more: object) -> None:
        if sys.exc_info()[0] is None:
            invalidate(*args, **more)

    lambda_svc.invalidate_worker = invalidate_on_purpose


def find_packages_in_python_folders() -> None:
    """Put the `python` folder of a layer on the path of modules, and not the layer itself.

    Lambda Developer Guide, "Packaging your layer content": for Python, `/opt/python` and the
    `site-packages` in it. ministack adds the top of each layer, too.

    Raises:
        RuntimeError: this release of ministack does so elsewhere.
    """
    line = "        sys.path.insert(0, _ld)\n"
    if line not in lambda_runtime._PYTHON_WORKER_SCRIPT:
        raise RuntimeError("ministack's worker does not add the layers' folders where it did")
    lambda_runtime._PYTHON_WORKER_SCRIPT = lambda_runtime._PYTHON_WORKER_SCRIPT.replace(line, "")


def survive_errors() -> None:
    """Keep an environment whose handler raised, for the next request.

    The same page, "Failures during the invoke phase": a reset follows a crash or a time-out.
    ministack ends an environment for an error as it does for a time-out.
    """
    invoke, end, collect = (
        lambda_runtime.Worker.invoke,
        lambda_runtime._signal,
        lambda_runtime._collect,
    )
    here = threading.local()

    def invoke_and_keep(worker: lambda_runtime.Worker, *args: object, **more: object) -> object:
        here.kept, here.times_out_at = None, time.monotonic() + worker.config.get("Timeout", 30)
        try:
            return invoke(worker, *args, **more)
        finally:
            here.times_out_at = 0.0
            if here.kept is not None:
                worker._proc = here.kept

    def end_late(process: object) -> None:
        if time.monotonic() < getattr(here, "times_out_at", 0.0):
            here.kept = process
        else:
            end(process)

    def collect_late(process: object, deadline: float) -> None:
        if process is not getattr(here, "kept", None):
            collect(process, deadline)

    lambda_runtime.Worker.invoke = invoke_and_keep
    lambda_runtime._signal = end_late
    lambda_runtime._collect = collect_late
