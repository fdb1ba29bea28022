"""A trial that needs no ledger, for the tests of the harness."""

from __future__ import annotations

import os
import signal
import time

from experiments.errors import NotApplicableError
from experiments.measure import Histogram
from experiments.trial import Operation, Outcome, Trial

USES_LEDGER = False


def measure(trial: Trial) -> Outcome:
    """Do what the level says."""
    kind = trial.factors["kind"]
    print("trial", kind, os.getpid(), flush=True)
    (trial.scratch / "file").write_text("left behind")
    if kind == "large":
        raise NotApplicableError("1 GiB of memory is missing")
    if kind == "raises":
        raise ValueError("planned <b>failure</b>")
    if kind == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hangs":
        time.sleep(60)
    marker = trial.scratch.parent.parent / f"tried-{trial.index}"
    if kind == "flaky" and not marker.exists():
        marker.touch()
        raise ValueError("the first try fails")
    if kind == "slow":
        time.sleep(0.4)
    latencies = Histogram.of(range(1000 * trial.factors["size"], 1000 * trial.factors["size"] + 200))
    numbers = {
        "calls": 200,
        "rows": 200,
        "rows_per_s": 1e6 / trial.factors["size"],
        "big": 2**60 + 1,
        "pid": os.getpid(),
    }
    numbers |= latencies.quantiles()
    state = "unsteady" + str(os.getpid()) if kind == "unsteady" else f"{trial.seed}-{trial.factors['size']}"
    return Outcome([Operation("work", numbers, {"latency": latencies})], state, {"got_kind": kind})
