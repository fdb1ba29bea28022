"""Parts that take turns: what slows the machine down slows all of them, and ratios are made within a round.

There is one row a part and round; the row of round 0 carries the histogram of all calls of the part.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from experiments.measure import Histogram, closed_loop
from experiments.trial import Operation

Part = Callable[[Any], tuple[np.ndarray, float]]
"""Does the calls of its argument; returns their latencies in ns (none, if it has none) and the seconds they took."""
NO_LATENCIES: Final = np.empty(0, np.int64)


def timed(call: Callable[[Any], object]) -> Part:
    """Return a part that makes one call for each argument, one after the other."""

    def part(arguments: Sequence[Any]) -> tuple[np.ndarray, float]:
        latencies = closed_loop(call, arguments)
        return latencies, float(latencies.sum()) / 1e9

    return part


def whole(function: Callable[[Any], object]) -> Part:
    """Return a part that hands all arguments to one call and times the whole."""

    def part(arguments: Sequence[Any]) -> tuple[np.ndarray, float]:
        start = time.perf_counter_ns()
        function(arguments)
        return NO_LATENCIES, (time.perf_counter_ns() - start) / 1e9

    return part


def take_turns(
    parts: Mapping[str, Part], rounds: Iterable[Mapping[str, Sequence[Any]]], rows_per_call: int
) -> list[Operation]:
    """Run every part once a round, each round beginning with another; return a row for each part and round.

    Parameters
    ----------
    parts
        By name of the operation.
    rounds
        For each round the arguments of each part; made between rounds, when no clock runs.
    rows_per_call
        Rows that one argument stands for.
    """
    names = list(parts)
    operations: list[Operation] = []
    histograms = {name: Histogram() for name in names}
    gc.collect()
    gc.disable()
    try:
        for number, arguments in enumerate(rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                calls = len(arguments[name])
                rows = calls * rows_per_call
                cpu_ns = -time.process_time_ns()
                latencies, seconds = parts[name](arguments[name])
                cpu_ns += time.process_time_ns()
                histograms[name].add(latencies)
                numbers = {"round": number, "calls": calls, "rows": rows, "seconds": seconds}
                numbers |= {"rows_per_s": rows / seconds, "cpu_ns_per_row": cpu_ns / rows}
                operations.append(Operation(name, numbers))
    finally:
        gc.enable()
    for operation in operations:
        if operation.numbers["round"] == 0 and histograms[operation.name].n:
            operation.histograms["latency"] = histograms[operation.name]
    return operations
