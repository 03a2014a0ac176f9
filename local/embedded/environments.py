"""Lambda: how long an execution environment lives."""

import sys
import threading
import time

from ministack.core import lambda_runtime, responses
from ministack.services import lambda_svc


def end_alone() -> None:
    """End no environment for the sake of another one, and none before its run has ended.

    Lambda Developer Guide, "Lambda execution environment lifecycle": environments are independent.
    "Lambda function states": while a function is being updated, requests go to its former code and
    configuration. If one environment fails to start, ministack ends all of its function, those
    among them that are starting, so that they fail as well and end the next. If a function is
    changed, it ends all that are running, in some calls those of every account and Region.
    """
    release = lambda_svc.release_worker

    def end_former(
        name: str,
        qualifier: str | None = None,
        account: str | None = None,
        region: str | None = None,
    ) -> None:
        if sys.exc_info()[0] is not None:
            return  # one failed to start
        account, region = account or responses.get_account_id(), region or responses.get_region()
        scope = f"{account}:{region}:{name}:"
        pools = lambda_runtime._workers
        with lambda_runtime._lock:
            keys = [scope + qualifier] if qualifier else [k for k in pools if k.startswith(scope)]
            former = [worker for key in keys for worker in pools.pop(key, [])]
            idle = [worker for worker in former if not worker.in_use]
        lambda_runtime.kill_workers(idle)

    def release_or_end(worker: lambda_runtime.Worker | None) -> None:
        release(worker)
        if worker is None:
            return
        with lambda_runtime._lock:
            is_former = not any(worker in pool for pool in lambda_runtime._workers.values())
        if is_former:
            lambda_runtime.kill_workers([worker])

    lambda_svc.invalidate_worker = end_former
    lambda_svc.release_worker = release_or_end


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
