"""Recovery: the time to open a ledger that was closed, killed, or has lost its index files.

Every opening and every writer is a process of its own, forked from the trial: all kernels are loaded there, and no
ledger is open. A killed ledger is opened again and again: each opening is killed too, and recovery leaves what it
began with.
"""

from __future__ import annotations

import collections
import itertools
import json
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

import numpy as np

from experiments import machine
from experiments.children import Child, die_with_parent
from experiments.errors import NotApplicableError
from experiments.trial import Operation, Outcome, Trial
from experiments.trials import common, pagecache
from ledger import GeometricLedger, Options
from ledger.layout import RECORD_BYTES
from ledger.storage.frames import frame_bytes

IN_FLIGHT: Final = 8
REPORT_S: Final = 0.1
REPORTS_MIN: Final = 5
SPARE_BYTES: Final = 1 << 30
PHASES: Final = ("map", "check index", "redo", "recount", "ready")
Say = Callable[[dict[str, Any]], object]


def measure(trial: Trial) -> Outcome:
    """Measure openings by size and length of the log, or after kills in the middle of a sustained load."""
    bench = Bench(trial)
    bench.check_fits()
    bench.add("fill", bench.ask(fill, trial, bench.path))
    {"size": by_size, "load": under_load}[trial.factors["part"]](bench)
    facts = bench.ask(close, bench.path, bench.options)
    state = facts.pop("state_hash")
    return Outcome(bench.operations, state if trial.factors["part"] == "size" else None, facts)


def by_size(bench: Bench) -> None:
    """Open after each situation: with the files in the page cache as close or kill left them, then with none of them.

    Reading the files once, which is timed, brings them back into the page cache.
    """
    for situation, log_mib in (("clean", 0), ("index lost", 0), *(("killed", mib) for mib in bench.chosen["log_mibs"])):
        if log_mib:
            bench.kill_after(log_mib)
        for cache, times in (("warm", bench.chosen["openings"]), ("cold", bench.chosen["openings_cold"])):
            bench.open(situation, cache, times, log_mib=log_mib)
        bench.read_once()


def under_load(bench: Bench) -> None:
    """Kill a writer in the middle of its load, round by round; the page cache is as the kill left it.

    The first opening tells the rate of redo, by which `recovery_target_s` bounds the log of the rounds.
    """
    bench.kill_after(max(bench.chosen["log_mibs"]))
    bench.open("killed", "warm", 1, round=-1)
    for number in range(bench.chosen["rounds"]):
        acknowledged = bench.load_and_kill(number)
        for cache in ("warm", "cold") if number == bench.chosen["rounds"] - 1 else ("warm",):
            bench.open("killed", cache, 1, round=number)
            if bench.operations[-1].numbers["lsn"] < acknowledged:
                raise AssertionError(f"batch {acknowledged} was acknowledged, and is lost")


class Bench:
    """One ledger, the processes that do something with it, and what they said."""

    def __init__(self, trial: Trial) -> None:
        self.chosen = trial.workload
        self.path = trial.scratch / "ledger"
        self.load = common.workload(trial)
        log_bytes = max(self.chosen["log_bytes_max"], (2 * max(self.chosen["log_mibs"]) + 1) << 20)
        self.options = common.options(
            trial, durability="sync", storage="private", log_bytes_max=log_bytes,
            recovery_target_s=trial.factors["recovery_target_s"] or None,
        )  # fmt: skip
        self.operations: list[Operation] = []
        self._log_bytes = self._streams = 0

    def check_fits(self) -> None:
        """Refuse a ledger for whose image, written pages and files this machine has no room."""
        image = int(self.load.accounts * (RECORD_BYTES * 1.05 + 8 / 0.5))
        needs = {
            "memory": (2 * image + SPARE_BYTES, machine.memory()["available_bytes"]),
            "disk": (image + self.options.log_bytes_max + SPARE_BYTES, shutil.disk_usage(self.path.parent).free),
        }
        for name, (needed, free) in needs.items():
            if needed > free:
                words = f"{needed / 2**30:.1f} GiB of {name}, {free / 2**30:.1f} are free"
                raise NotApplicableError(f"{self.load.accounts:,} accounts need {words}")

    def add(self, name: str, numbers: dict[str, Any]) -> None:
        """Keep what was measured."""
        self.operations.append(Operation(name, numbers))

    # ------------------------------------------------------------ processes
    def begin(self, body: Callable[..., object], *arguments: Any) -> Child:
        """Start a process that runs `body`, which says lines of JSON."""

        def run(say: Callable[[object], object]) -> None:
            die_with_parent()
            body(lambda facts: say(json.dumps(facts)), *arguments)

        return Child(run)

    def ask(self, body: Callable[..., object], *arguments: Any, kill: bool = False) -> dict[str, Any]:
        """Run `body` in a process and return what it says; kill it then, or else wait for its end."""
        child = self.begin(body, *arguments)
        line = child.line()
        if kill and line:
            child.kill()
        elif child.wait() or not line:
            raise RuntimeError(f"the process that was to {body.__name__} ended with {child.status}")
        found: dict[str, Any] = json.loads(line)
        return found

    def kill_after(self, log_mib: int) -> None:
        """Write durable batches until the log since the checkpoint has a length, then kill the writer."""
        rows = self.chosen["batch_rows"]
        calls = max(1, ((log_mib << 20) - self._log_bytes) // frame_bytes(rows, 0))
        self._log_bytes += calls * frame_bytes(rows, 0)
        self._streams += 1
        options = self.options.with_values(recovery_target_s=None)
        self.ask(write, self.path, options, self.load.updates(calls, rows, self._streams), kill=True)

    def load_and_kill(self, number: int) -> int:
        """Kill a writer that has been busy for `load_s`; return the newest LSN that it said was durable."""
        rows = self.chosen["load_rows"]
        batches = self.load.updates(self.chosen["load_batches"], rows, 100 + number)
        child = self.begin(write_on, self.path, self.options, batches)
        said: list[dict[str, Any]] = []
        while (len(said) < REPORTS_MIN or said[-1]["seconds"] < self.chosen["load_s"]) and (line := child.line()):
            said.append(json.loads(line))
        said += map(json.loads, child.kill())
        if len(said) < REPORTS_MIN:
            raise RuntimeError(f"the writer ended with {child.status}")
        first, last = said[len(said) // 4], said[-1]
        seconds, done = last["seconds"] - first["seconds"], last["rows"] - first["rows"]
        numbers = {"round": number, "rows": done, "seconds": seconds, "rows_per_s": done / seconds}
        self.add("write", numbers | {name: last[name] for name in ("checkpoints", "log_limit_bytes")})
        return int(last["lsn"])

    def open(self, situation: str, cache: str, times: int, **place: Any) -> None:
        """Open the ledger some times, each time in the same situation."""
        killed, key = situation == "killed", self.load.pubkeys(np.arange(1)).tobytes()
        for number in range(times):
            if situation == "index lost":
                for path in pagecache.files(self.path, "index_"):
                    path.unlink()
            if cache == "cold":
                pagecache.drop(self.path)
            numbers = {"situation": situation, "cache": cache, "opening": number, **place}
            numbers["resident_share"] = pagecache.resident_share(self.path)
            found = self.ask(open_, self.path, self.options, key, not killed, kill=killed)
            if found["accounts"] != self.load.accounts or found["clean"] is killed:
                raise AssertionError(f"{situation}: {found}")
            self.add("open", numbers | found)

    def read_once(self) -> None:
        """Read the image from the disk, first byte to last."""
        pagecache.drop(self.path)
        size, read = common.timed("read", lambda: pagecache.read_once(self.path))
        read.numbers |= {"bytes_read": size, "read_ms": read.numbers["seconds"] * 1e3}
        self.operations.append(read)


# ---------------------------------------------------------------- what the processes do
def fill(say: Say, trial: Trial, path: Path) -> None:
    """Insert all accounts into a new ledger and close it."""
    load = common.workload(trial)
    fixed = {"durability": "none", "storage": "memory", "hugepages": "thp", "recovery_target_s": None}
    ledger = GeometricLedger.open(path, common.options(trial, **fixed))
    start = time.perf_counter()
    for batch in load.fill(common.FILL_ROWS):
        ledger.update_batch(batch)
    seconds = time.perf_counter() - start
    _, closed = common.timed("close", ledger.close)
    say({
        "rows": load.accounts, "seconds": seconds, "rows_per_s": load.accounts / seconds,
        "close_s": closed.numbers["seconds"],
    })  # fmt: skip


def write(say: Say, path: Path, options: Options, batches: Sequence[np.ndarray]) -> None:
    """Write batches one after the other, each durable, and wait to be killed."""
    ledger = GeometricLedger.open(path, options, create=False)
    for batch in batches:
        ledger.update_batch(batch)
    say({"lsn": ledger.stats().durable_lsn})
    signal.pause()


def write_on(say: Say, path: Path, options: Options, batches: Sequence[np.ndarray]) -> None:
    """Write batches without a pause, some of them under way at once, and tell what is durable."""
    ledger = GeometricLedger.open(path, options, create=False)
    waiting: collections.deque[Future[int]] = collections.deque()
    rows, told, start = 0, 0.0, time.perf_counter()
    for batch in itertools.cycle(batches):
        waiting.append(ledger.submit_batch(batch))
        if len(waiting) < IN_FLIGHT:
            continue
        lsn = waiting.popleft().result()
        rows += len(batch)
        seconds = time.perf_counter() - start
        if seconds >= told + REPORT_S:
            told, stats = seconds, ledger.stats()
            limit = stats.log_redo_bytes_max
            say(
                {
                    "seconds": seconds,
                    "rows": rows,
                    "lsn": lsn,
                    "checkpoints": stats.checkpoints,
                    "log_limit_bytes": limit,
                }
            )


def open_(say: Say, path: Path, options: Options, key: bytes, close: bool) -> None:
    """Open, read one account, and close or wait to be killed."""
    start = time.perf_counter_ns()
    ledger = GeometricLedger.open(path, options, create=False)
    opened = time.perf_counter_ns()
    ledger.get(key)
    answered = time.perf_counter_ns()
    report = ledger.recovery
    found = {"open_ms": (opened - start) / 1e6, "first_get_ms": (answered - opened) / 1e6}
    found |= {f"{name.replace(' ', '_')}_ms": report.seconds.get(name, 0.0) * 1e3 for name in PHASES}
    found |= {"clean": report.clean, "lsn": report.lsn, "frames": report.frames, "redo_rows": report.rows}
    found |= {"blocks_fetched": report.blocks_fetched, "log_bytes": report.bytes_read}
    found |= {"indexes_rebuilt": len(report.indexes_rebuilt), "accounts": len(ledger)}
    if close:
        ledger.close()
    say(found)
    if not close:
        signal.pause()


def close(say: Say, path: Path, options: Options) -> None:
    """Open, close, and tell what the ledger has come to."""
    with GeometricLedger.open(path, options, create=False) as ledger:
        facts = {**common.got(ledger.stats()), "state_hash": ledger.state_hash()}
    say(facts)
