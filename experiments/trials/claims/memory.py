"""Claims about memory: prefetching, huge pages, what a fork costs with them, bytes an account."""

from __future__ import annotations

import dataclasses
import mmap
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from experiments import machine
from experiments.errors import NotApplicableError
from experiments.measure import Histogram, closed_loop
from experiments.trial import Operation, Outcome, Trial
from experiments.trials import chase, common
from experiments.trials.claims import compare
from experiments.trials.turns import Part, take_turns, timed
from ledger import GeometricLedger
from ledger.layout import RECORD_BYTES

_COLLAPSE: Final = 25


# ---------------------------------------------------------------- prefetching
def prefetch(trial: Trial) -> Outcome:
    """Read and update in batches at each distance, the same kernels over a table far larger than the caches."""
    chosen = trial.workload
    over_cache = chosen["accounts"] * RECORD_BYTES / max(machine.data_cache_bytes().values(), default=1)
    if over_cache < chosen["over_cache_min"]:
        raise NotApplicableError(f"the table is {over_cache:.1f} times the last-level cache; give more accounts")
    ledger, _ = common.create(trial.scratch / "ledger", trial, durability="none", storage="memory")
    load, rows, calls = common.workload(trial), chosen["batch_rows"], chosen["calls"]
    parts: dict[str, Part] = {}
    rounds: list[dict[str, Sequence[Any]]] = [{} for _ in range(chosen["rounds"])]
    for kind, call in (("get", ledger.get_batch), ("update", ledger.update_batch)):
        for distance in chosen["distances"]:
            parts[f"{kind} {distance}"] = _at_distance(ledger, distance, call)
    for number, arguments in enumerate(rounds):
        hits, updates = load.hits(calls, rows, 100 + number), load.updates(calls, rows)
        arguments |= {name: hits if name.startswith("get") else updates for name in parts}
    for name, part in parts.items():
        part(rounds[0][name])
    operations = take_turns(parts, rounds, rows)
    pairs = {name: f"{name.split()[0]} 0" for name in parts}
    facts = {**common.got(ledger.stats()), "table_over_cache": over_cache}
    return Outcome(compare(operations, "gain", pairs), ledger.state_hash(), facts)


def _at_distance(ledger: GeometricLedger, distance: int, call: Callable[[Any], object]) -> Part:
    """Return a part that calls with the kernels looking ahead so many rows."""
    applier, part = ledger._applier, timed(call)

    def run(arguments: Sequence[Any]) -> tuple[np.ndarray, float]:
        before, applier.distance = applier.distance, distance
        try:
            return part(arguments)
        finally:
            applier.distance = before

    return run


# ---------------------------------------------------------------- huge pages
def hugepages(trial: Trial) -> Outcome:
    """Read and update ledgers of each size that lie on huge pages and on small ones, in turn."""
    chosen = trial.workload
    rows, calls = chosen["batch_rows"], chosen["calls"]
    operations: list[Operation] = []
    shares, state = {}, ""
    for accounts in chosen["sizes"]:
        sized = dataclasses.replace(trial, workload={**chosen, "accounts": accounts})
        load = common.workload(sized)
        parts: dict[str, Part] = {}
        for pages in ("off", "thp"):
            ledger, _ = common.create(
                trial.scratch / f"{pages}-{accounts}", sized, durability="none", storage="memory", hugepages=pages
            )
            stats = ledger.stats()
            huge = stats.huge_record_bytes + stats.huge_index_bytes
            shares[f"huge_share_{pages}_{accounts}"] = huge / max(stats.resident_bytes, huge, 1)
            parts |= {
                f"get {pages} {accounts}": timed(ledger.get_batch),
                f"update {pages} {accounts}": timed(ledger.update_batch),
            }
            state += ledger.state_hash()
        hits, updates = load.hits(calls, rows), load.updates(calls, rows)
        arguments = {name: hits if name.startswith("get") else updates for name in parts}
        found = take_turns(parts, [arguments] * (chosen["rounds"] + 1), rows)
        pairs = {name: name.replace("thp", "off") for name in parts if "thp" in name}
        operations += [item for item in compare(found, "gain", pairs) if item.numbers["round"]]  # the first warms up
    covered = [share for name, share in shares.items() if name.startswith("huge_share_thp")]
    if min(covered) < chosen["huge_share_min"]:
        raise NotApplicableError(f"the kernel put only {min(covered):.0%} of the memory on huge pages")
    return Outcome(operations, state, shares)


def file_mappings(trial: Trial) -> Outcome:
    """Map files with huge pages asked for, read or write them, and see what share the kernel mapped by huge pages."""
    size = trial.workload["file_bytes"]
    operations = []
    for place, folder in (("file", trial.scratch), ("tmpfs", "/dev/shm")):
        descriptor = os.open(folder, os.O_RDWR | os.O_TMPFILE)
        try:
            os.posix_fallocate(descriptor, 0, size)
            for use in ("read", "written", "collapsed"):
                share = _mapped_huge(descriptor, size, use)
                operations.append(Operation(f"{place}, {use}", {"huge_share": share}))
        finally:
            os.close(descriptor)
    return Outcome(operations)


def _mapped_huge(descriptor: int, size: int, use: str) -> float:
    """Return the share of a new shared mapping that lies on huge pages after some use."""
    with mmap.mmap(descriptor, size) as region:
        region.madvise(mmap.MADV_HUGEPAGE)
        memory = np.frombuffer(region, np.uint8)
        if use == "written":
            memory[:: mmap.PAGESIZE] = 1
        assert memory[:: mmap.PAGESIZE].sum() >= 0
        if use == "collapsed":
            try:
                region.madvise(_COLLAPSE)
            except OSError:
                pass  # a kernel that refuses has mapped nothing by huge pages, which is what is counted
        fields = ("FilePmdMapped", "ShmemPmdMapped")
        share = sum(chase.huge_bytes(memory.ctypes.data, field) for field in fields) / size
        del memory
        return share


# ---------------------------------------------------------------- fork
def fork(trial: Trial) -> Outcome:
    """Fork a process that holds much memory on small or huge pages, and write to it while the child lives."""
    chosen = trial.workload
    size, operations = chosen["region_bytes"], []
    places = np.random.default_rng(trial.seed).choice(size // mmap.PAGESIZE, chosen["writes"], replace=False)
    for number in range(chosen["rounds"]):
        tails = {}
        for pages, advice in (("off", mmap.MADV_NOHUGEPAGE), ("thp", mmap.MADV_HUGEPAGE)):
            region = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            region.madvise(advice)
            memory = np.frombuffer(region, np.uint8)
            memory[:: mmap.PAGESIZE] = 1
            share = chase.huge_bytes(memory.ctypes.data) / size
            if pages == "thp" and share < chosen["huge_share_min"]:
                raise NotApplicableError(f"the kernel put only {share:.0%} of the memory on huge pages")
            child, seconds = _fork()
            try:
                latencies = closed_loop(lambda page, memory=memory: memory.__setitem__(page * mmap.PAGESIZE, 2), places)
            finally:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            del memory
            region.close()
            histogram = Histogram.of(latencies)
            tails[pages] = float(np.percentile(latencies, 99))
            numbers = {"round": number, "ms_per_gb": seconds * 1e3 / (size / 1e9), "huge_share": share}
            numbers |= {"seconds": seconds, "writes_s": float(latencies.sum()) / 1e9, **histogram.quantiles()}
            operations.append(Operation(f"fork {pages}", numbers, {"latency": histogram} if not number else {}))
        operations[-1].numbers["p99_over_off"] = tails["thp"] / tails["off"]
        operations[-1].numbers["fork_over_off"] = operations[-1].numbers["seconds"] / operations[-2].numbers["seconds"]
    return Outcome(operations)


def _fork() -> tuple[int, float]:
    """Fork a child that sleeps until it is killed; return its id and the seconds that the parent was away."""
    start = time.perf_counter_ns()
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # should the parent die, the child ends all the same
        signal.pause()
        os._exit(0)
    return child, (time.perf_counter_ns() - start) / 1e9


# ---------------------------------------------------------------- bytes an account
def footprint(trial: Trial) -> Outcome:
    """Fill a ledger of many shards to its capacity, and count the bytes of records and indexes."""
    ledger, filled = common.create(trial.scratch / "ledger", trial, durability="none")
    stats = ledger.stats()
    taken = sum(stats.slots_used)
    index = sum(round(used / load) * 8 for used, load in zip(stats.slots_used, stats.load_factor, strict=True) if used)
    filled.numbers |= {
        "bytes_per_account": (taken * RECORD_BYTES + index) / taken,
        "index_bytes_per_account": index / taken,
        "image_bytes_per_account": stats.image_bytes / taken,
    }
    return Outcome([filled], ledger.state_hash(), common.got(stats))
