"""What a new process pays: the memory of a loaded ledger, and the time to open one that was closed cleanly.

Run as ``python -m experiments.trials.fresh load|open PATH ...`` it does one of them and prints its numbers.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from experiments.measure import Usage
from experiments.trial import Operation, Outcome, Trial

BASE_BYTES: Final = 200_000_000
"""What interpreter, numba, compiled kernels and the batches on their way may take."""


def measure(trial: Trial) -> Outcome:
    """Load a large and a small ledger, each in a process of its own; then open them in turn in new processes."""
    sizes = [trial.workload["accounts"], trial.workload["accounts_small"]]
    operations, state = [], ""
    for size in sizes:
        loaded = _call("load", trial, size)
        state += loaded.pop("state_hash")
        operations.append(Operation("load", loaded))
    for number in range(trial.workload["openings"]):
        for size in sizes:
            operations.append(Operation("open", {"round": number, **_call("open", trial, size)}))
    return Outcome(operations, state)


def _call(command: str, trial: Trial, accounts: int) -> dict[str, Any]:
    """Run this module in a new interpreter and return what it measured."""
    settings = {
        "path": str(trial.scratch / f"ledger-{accounts}"), "accounts": accounts, "seed": trial.seed,
        "batch_rows": trial.workload["batch_rows"], "storage": trial.workload["storage"],
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "experiments.trials.fresh", command, json.dumps(settings)],
        stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"size": accounts, **found}


def load(path: str, accounts: int, seed: int, batch_rows: int, storage: str) -> dict[str, Any]:
    """Load a new ledger, close it, and return what that took; memory counts up to before the closing."""
    from experiments.workload import Workload
    from ledger import GeometricLedger, Options
    from ledger.layout import RECORD_BYTES

    work = Workload(accounts, seed)
    options = Options(durability="none", storage=storage, capacity=accounts, hash_key=work.hash_key)
    before = Usage.now()
    ledger = GeometricLedger.open(Path(path), options)
    for batch in work.fill(batch_rows):
        ledger.update_batch(batch)
    used = Usage.now().since(before)
    peak = peak_bytes()
    stats = ledger.stats()
    positions = sum(round(used / load) for used, load in zip(stats.slots_used, stats.load_factor, strict=True) if used)
    data = accounts * RECORD_BYTES + positions * 8
    state = ledger.state_hash()
    start = time.perf_counter()
    ledger.close()
    return {
        "rows": accounts, "seconds": used["wall_s"], "rows_per_s": accounts / used["wall_s"],
        "rss_peak_bytes": peak, "data_bytes": data, "memory_over_data": (peak - BASE_BYTES) / data,
        "close_s": time.perf_counter() - start, "rss_peak_closed_bytes": peak_bytes(), "state_hash": state,
    }  # fmt: skip


def open_(path: str, accounts: int, seed: int, batch_rows: int, storage: str) -> dict[str, Any]:
    """Open a ledger that was closed cleanly: at once after the import, then again with all kernels loaded."""
    from ledger import GeometricLedger, Options

    options = Options(durability="none", storage=storage)
    times = []
    for _ in range(2):
        start = time.perf_counter_ns()
        ledger = GeometricLedger.open(Path(path), options, create=False)
        times.append(time.perf_counter_ns() - start)
        assert len(ledger) == accounts
        ledger.close()
    return {"open_first_ms": times[0] / 1e6, "open_again_ms": times[1] / 1e6}


def peak_bytes() -> int:
    """Return the most resident memory that this process has had; getrusage would tell its parent's, if larger."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


if __name__ == "__main__":
    print(json.dumps({"load": load, "open": open_}[sys.argv[1]](**json.loads(sys.argv[2]))))
