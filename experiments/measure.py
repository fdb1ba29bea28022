"""Clocks, counters and the latency histogram.

The histogram is log-linear, 128 buckets an octave: a value of 256 or more is told within 1/256
(0.4 %), a smaller one exactly. It keeps counts only, so that histograms of repeats add up; no mean of
percentiles is ever made. The operation is the call, whatever the number of rows in it.
"""

from __future__ import annotations

import gc
import resource
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

BITS: Final = 7
BUCKETS: Final = ((64 - BITS) << BITS) + (1 << BITS)
QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999, "p99_99": 0.9999}
BEYOND: Final = 10
"""Samples that must lie beyond a quantile before it is shown."""


def buckets_of(samples: np.ndarray) -> np.ndarray:
    """Return the bucket of each sample; negative ones count as 0."""
    values = np.maximum(np.asarray(samples, np.int64), 0)
    _, bits = np.frexp(values.astype(float))
    shift = np.maximum(bits - BITS - 1, 0).astype(np.int64)
    return (shift << BITS) + (values >> shift)


def bucket_edges(buckets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least value of each bucket and its width."""
    index = np.asarray(buckets, np.int64)
    shift = np.maximum((index >> BITS) - 1, 0)
    low = (index - (shift << BITS)) << shift
    return low, np.int64(1) << shift


@dataclass
class Histogram:
    """Counts of latencies in nanoseconds (or of any whole numbers).

    Examples
    --------
    >>> h = Histogram.of([100] * 90 + [5000] * 10)
    >>> h.quantile(0.5), h.quantile(0.99) is None, h.max
    (100.0, True, 5000)
    """

    counts: np.ndarray = field(default_factory=lambda: np.zeros(BUCKETS, np.int64))
    max: int = 0
    sum: int = 0

    @classmethod
    def of(cls, samples: Sequence[int] | np.ndarray) -> Histogram:
        """Return the histogram of some samples."""
        histogram = cls()
        histogram.add(np.asarray(samples, np.int64))
        return histogram

    @property
    def n(self) -> int:
        """Return the number of samples."""
        return int(self.counts.sum())

    def add(self, samples: np.ndarray) -> None:
        """Count samples; negative ones count as 0."""
        if samples.size:
            self.counts += np.bincount(buckets_of(samples), minlength=BUCKETS)
            self.max = max(self.max, int(samples.max()))
            self.sum += int(samples.sum())

    def merge(self, other: Histogram) -> None:
        """Add the counts of another histogram."""
        self.counts = self.counts + other.counts
        self.max = max(self.max, other.max)
        self.sum += other.sum

    def quantile(self, q: float, *, beyond: int = BEYOND) -> float | None:
        """Return the value at quantile `q`, or None where fewer than `beyond` samples lie beyond it."""
        n = self.n
        if n * (1 - q) < beyond - 1e-6:
            return None
        bucket = int(np.searchsorted(np.cumsum(self.counts), max(1, np.ceil(q * n - 1e-6))))
        low, width = bucket_edges(np.array([bucket]))
        return float(min(low[0] + (width[0] - 1) / 2, self.max))

    def quantiles(self, prefix: str = "latency_ns_") -> dict[str, float | int | None]:
        """Return all quantiles of the tables, the greatest value and the count, by column name."""
        found: dict[str, float | int | None] = {prefix + name: self.quantile(q) for name, q in QUANTILES.items()}
        n = self.n
        return {**found, prefix + "max": self.max if n else None, prefix + "count": n}

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (values, share of samples beyond): the percentile curve, cut where ten samples remain."""
        buckets = np.flatnonzero(self.counts)
        low, width = bucket_edges(buckets)
        beyond = 1 - np.cumsum(self.counts[buckets]) / max(self.n, 1)
        keep = beyond * self.n >= BEYOND - 1e-6
        return (low + (width - 1) / 2)[keep], beyond[keep]

    def sparse(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (buckets, counts) of the buckets that are not empty."""
        buckets = np.flatnonzero(self.counts)
        return buckets, self.counts[buckets]

    @classmethod
    def from_sparse(cls, buckets: np.ndarray, counts: np.ndarray, maximum: int = 0, total: int = 0) -> Histogram:
        """Return a histogram from what `sparse` gave."""
        dense = np.zeros(BUCKETS, np.int64)
        np.add.at(dense, np.asarray(buckets, np.int64), np.asarray(counts, np.int64))
        return cls(dense, maximum, total)


@dataclass(frozen=True)
class Usage:
    """What the process has used so far; subtract two of them."""

    time_ns: int
    cpu_s: float
    faults_minor: int
    faults_major: int
    bytes_written: int

    @classmethod
    def now(cls) -> Usage:
        """Read the clock and the counters of this process."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        written = _io_field("write_bytes")
        cpu = used.ru_utime + used.ru_stime
        return cls(time.perf_counter_ns(), cpu, used.ru_minflt, used.ru_majflt, written)

    def since(self, before: Usage) -> dict[str, float | int]:
        """Return what was used between `before` and this reading, by column name."""
        return {
            "wall_s": (self.time_ns - before.time_ns) / 1e9,
            "cpu_s": self.cpu_s - before.cpu_s,
            "faults_minor": self.faults_minor - before.faults_minor,
            "faults_major": self.faults_major - before.faults_major,
            "bytes_written": self.bytes_written - before.bytes_written,
        }


def rss_bytes() -> int:
    """Return the resident memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def closed_loop(call: Callable[[Any], object], arguments: Sequence[Any]) -> np.ndarray:
    """Call with each argument in turn and return the latencies in ns; the next waits for the last."""
    latencies = np.empty(len(arguments), np.int64)
    clock = time.perf_counter_ns
    for i, argument in enumerate(arguments):
        start = clock()
        call(argument)
        latencies[i] = clock() - start
    return latencies


def closed_loops(call: Callable[[Any], object], shares: Sequence[Sequence[Any]]) -> tuple[np.ndarray, float]:
    """Run a closed loop over each share in a thread of its own; return all latencies in ns, and the seconds it took."""
    latencies = [np.empty(0, np.int64)] * len(shares)
    begin = threading.Barrier(len(shares) + 1)

    def run(caller: int) -> None:
        begin.wait()
        latencies[caller] = closed_loop(call, shares[caller])

    threads = [threading.Thread(target=run, args=(caller,)) for caller in range(len(shares))]
    for thread in threads:
        thread.start()
    begin.wait()
    start = time.perf_counter_ns()
    for thread in threads:
        thread.join()
    return np.concatenate(latencies), (time.perf_counter_ns() - start) / 1e9


def open_loop(call: Callable[[Any], object], arguments: Sequence[Any], calls_per_s: float) -> np.ndarray:
    """Call at a set arrival rate and return latencies in ns, each from its intended start.

    A stall delays every call that should have started meanwhile, and each of them counts its wait: what
    a closed loop leaves out (coordinated omission).
    """
    latencies = np.empty(len(arguments), np.int64)
    clock = time.perf_counter_ns
    period = 1e9 / calls_per_s
    first = clock() + 1_000_000
    for i, argument in enumerate(arguments):
        due = first + int(i * period)
        wait_until(due)
        call(argument)
        latencies[i] = clock() - due
    return latencies


def wait_until(due_ns: int) -> None:
    """Wait until `time.perf_counter_ns` says so; a sleep comes back some 60 us late: sleep short, spin the rest."""
    clock = time.perf_counter_ns
    wait = due_ns - clock()
    if wait > 300_000:
        time.sleep((wait - 200_000) / 1e9)
    while clock() < due_ns:
        pass


def run_calls(
    call: Callable[[Any], object], arguments: Sequence[Any], *, calls_per_s: float = 0.0
) -> tuple[np.ndarray, dict[str, float | int]]:
    """Run a closed loop, or an open one if a rate is given, with the collector off; latencies and usage."""
    gc.collect()
    gc.disable()
    try:
        before = Usage.now()
        if calls_per_s > 0:
            latencies = open_loop(call, arguments, calls_per_s)
        else:
            latencies = closed_loop(call, arguments)
        return latencies, Usage.now().since(before)
    finally:
        gc.enable()


def _io_field(name: str) -> int:
    """Read one counter of /proc/self/io, 0 where the kernel does not tell."""
    try:
        with open("/proc/self/io", encoding="ascii") as file:
            for line in file:
                if line.startswith(name + ":"):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0
