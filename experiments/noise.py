"""How steady the machine is: the same work before and after a run, and what others took of the CPUs meanwhile.

The work is of three kinds: hashing within the cache, loads from all over 64 MiB, small writes that are synced. Of each
the *spread* is the 95th percentile over the median within one check, the *drift* the median of the last check over
that of the first. `judge` calls a run disturbed by these limits:

===============  ======  =====================================================================================
spread, cache      1.10  the work and its data are the same each time: only clock, interrupts and others vary
spread, memory     1.25  other users of caches and memory, a host's too; a tenth comes from pages and refresh
spread, sync       3.00  a disk's own times are skewed: three times the median is usual, more is a queue
drift, cache       1.05  a clock that fell, or a neighbour who came: hits all ratios to stored runs
drift, memory      1.10  the same
drift, sync        1.50  a disk that slowed down, or others who sync
steal              0.01  share of CPU time that the host withheld, over the run
others             0.05  share of all CPUs that other processes used during a check
===============  ======  =====================================================================================

A trial's repeats are interleaved, so that paired ratios bear a disturbed machine better than times do; what is said
here stands beside both.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

SPREAD_MAX: Final = {"cache": 1.10, "memory": 1.25, "sync": 3.0}
DRIFT_MAX: Final = {"cache": 1.05, "memory": 1.10, "sync": 1.5}
STEAL_MAX: Final = 0.01
OTHERS_MAX: Final = 0.05
SECONDS: Final = {"smoke": 0.2, "quick": 2.0, "standard": 2.0, "full": 2.0}
_WORDS: Final = {"cache": "work in cache", "memory": "loads from memory", "sync": "synced writes"}
_TABLE_BYTES: Final = 64 << 20
_LOADS: Final = 1 << 17
_HASHED_BYTES: Final = 256 << 10
_BLOCK: Final = b"\x5a" * 4096
_SAMPLES: Final = (10, 1000)
"""Samples of each kind at least and at most."""


def check(folder: Path, seconds: float) -> dict[str, Any]:
    """Do the fixed work for about so long; syncs go to a file in `folder`, which is removed."""
    table = np.arange(_TABLE_BYTES // 8)
    places = np.random.default_rng(1).integers(0, table.size, _LOADS)
    out = np.empty(_LOADS, table.dtype)
    hashed = bytes(_HASHED_BYTES)
    before, wall, own = _ticks(), time.monotonic(), time.process_time()
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".noise-") as file:
        works: dict[str, Callable[[], object]] = {
            "cache": lambda: hashlib.blake2b(hashed),
            "memory": lambda: table.take(places, out=out, mode="clip"),
            "sync": lambda: (os.pwrite(file.fileno(), _BLOCK, 0), os.fdatasync(file.fileno())),
        }
        found: dict[str, Any] = {name: _timed(work, seconds / len(works)) for name, work in works.items()}
    after, wall, own = _ticks(), time.monotonic() - wall, time.process_time() - own
    busy_s = (after["busy"] - before["busy"]) / os.sysconf("SC_CLK_TCK")
    others = max(0.0, busy_s - own) / (wall * (os.cpu_count() or 1))
    return {**found, "others_share": round(others, 4), "load_1min": os.getloadavg()[0], "ticks": after}


def judge(checks: Sequence[Mapping[str, Any]], *, ended: bool = True) -> dict[str, Any]:
    """Return the verdict on a run's checks in order of time: "quiet" or "disturbed", and why in words.

    Parameters
    ----------
    checks
        What `check` returned before the first trial, after the last one, and around each stop between them.
    ended
        False if the run ended too early for a check after it.
    """
    first, last = checks[0], checks[-1]
    spread = {name: max(one[name]["p95_ms"] / one[name]["p50_ms"] for one in checks) for name in SPREAD_MAX}
    drift = {name: last[name]["p50_ms"] / first[name]["p50_ms"] for name in DRIFT_MAX}
    total = last["ticks"]["total"] - first["ticks"]["total"]
    steal = (last["ticks"]["steal"] - first["ticks"]["steal"]) / total if total > 0 else 0.0
    others = max(one["others_share"] for one in checks)
    reasons = [
        f"{_WORDS[name]} took {spread[name]:.2f} times the median at the 95th percentile (limit {limit:g})"
        for name, limit in SPREAD_MAX.items()
        if spread[name] > limit
    ]
    reasons += [
        f"{_WORDS[name]} took {drift[name]:.2f} times as long after the run as before (limit {limit:g}, either way)"
        for name, limit in DRIFT_MAX.items()
        if not 1 / limit <= drift[name] <= limit
    ]
    if others > OTHERS_MAX:
        reasons.append(f"other processes used {others:.0%} of the CPUs during a check (limit {OTHERS_MAX:.0%})")
    if steal > STEAL_MAX:
        reasons.append(f"the host withheld {steal:.1%} of the CPU time (limit {STEAL_MAX:.0%})")
    verdict = "disturbed" if reasons else "quiet"
    why = "; ".join(reasons) or "the same work took the same time within the limits, and nobody else worked"
    unended = "" if ended else " (checked before the run only)"
    words = f"The machine was {verdict}{unended}: {why}."
    return {
        "verdict": verdict,
        "disturbed": bool(reasons),
        "words": words,
        "reasons": reasons,
        "spread": spread,
        "drift": drift,
        "steal_share": steal,
        "others_share": others,
        "checks": [dict(one) for one in checks],
    }


def _timed(work: Callable[[], object], seconds: float) -> dict[str, float]:
    """Return median and 95th percentile in ms of the work, done again and again for so long."""
    least, most = _SAMPLES
    work()
    times: list[int] = []
    end = time.monotonic() + seconds
    while len(times) < least or (len(times) < most and time.monotonic() < end):
        start = time.perf_counter_ns()
        work()
        times.append(time.perf_counter_ns() - start)
    middle, high = np.quantile(times, [0.5, 0.95]) / 1e6
    return {"p50_ms": float(middle), "p95_ms": float(high), "samples": len(times)}


def _ticks() -> dict[str, int]:
    """Return the clock ticks of all CPUs since the boot: all, busy, and withheld by the host."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, idle, waiting, irq, soft, steal = map(int, file.readline().split()[1:9])
    busy = user + nice + system + irq + soft
    return {"total": busy + idle + waiting + steal, "busy": busy, "steal": steal}
