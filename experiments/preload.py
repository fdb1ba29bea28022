"""Imported once by the fork server: everything that a trial needs is loaded here, then forked."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
import traceback

from experiments.spec import import_own
from experiments.trial import MODULES_VARIABLE

_STARTED = time.monotonic()


def load() -> None:
    """Load the ledger's kernels, the trial modules and their kernels; say so when it takes long."""
    import_own()
    modules = [importlib.import_module(name) for name in os.environ.get(MODULES_VARIABLE, "").split(",") if name]
    if any(getattr(module, "USES_LEDGER", True) for module in modules):
        import ledger
        from experiments import workload

        ledger.warm_up(progress=_tell)
        workload.Workload(16, keys="zipf").updates(1, 4)
    for module in modules:
        if hasattr(module, "warm_up"):
            module.warm_up()
    gc.collect()
    gc.freeze()
    tasks = len(os.listdir("/proc/self/task"))
    if tasks > 1:
        print(f"warning: the fork server has {tasks} threads; trials may hang", file=sys.stderr, flush=True)


def _tell(what: str, done: int, of: int) -> None:
    """Say which kernels are being compiled; loading them from the cache is too quick to tell of."""
    if time.monotonic() - _STARTED > 4:
        print(f"kernels: {what} ({done} of {of})", file=sys.stderr, flush=True)


try:
    load()
except Exception:  # the server must live: each trial then fails with the same error, as a row
    traceback.print_exc()
