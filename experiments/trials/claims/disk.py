"""Claims about disks: appending, and mapped files beside direct reads when memory is short."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from experiments.children import Child, die_with_parent
from experiments.errors import NotApplicableError
from experiments.trial import Operation, Outcome, Trial
from experiments.trials.frames import FrameWriter
from experiments.trials.turns import take_turns, whole
from ledger.kernels.jit import kernel

CGROUPS: Final = Path("/sys/fs/cgroup")
PAGE: Final = mmap.PAGESIZE
AT_ONCE: Final = 8
"""Pages between two looks at the clock."""
CHOSEN: Final = 1 << 15
"""Page numbers that a thread goes through, in a ring: they lie in the capped memory, too."""


def append(trial: Trial) -> Outcome:
    """Append frames to a file, durably, in each way that the file system takes; and to one in memory."""
    chosen = trial.workload
    with contextlib.ExitStack() as writers:
        parts = {}
        for place, folder in (("disk", trial.scratch), ("memory", Path("/dev/shm"))):
            writer = FrameWriter(folder / f"frames-{os.getpid()}.bin", chosen["frame_bytes"])
            writers.callback(writer.close)
            parts |= {f"{place}, {way}": whole(write) for way, write in writer.ways.items()}
        arguments = {name: list(range(chosen["frames"])) for name in parts}
        return Outcome(take_turns(parts, [arguments] * chosen["rounds"], chosen["frame_bytes"]))


def mapped_reads(trial: Trial) -> Outcome:
    """Read random pages of a file four times as large as the memory that the reader may use: mapped, and directly."""
    chosen = trial.workload
    path = trial.scratch / "pages"
    _fill(path, chosen["file_bytes"])
    operations = []
    with _memory_cap(chosen["memory_bytes"]) as group:
        for number in range(chosen["rounds"]):
            rates = {}
            for name, read in (("mapped", _read_mapped), ("direct", _read_direct))[:: 1 if number % 2 else -1]:
                _forget(path)

                def body(say: Callable[[object], None], read: Any = read, number: int = number) -> None:
                    die_with_parent()
                    (group / "cgroup.procs").write_text(str(os.getpid()))
                    _read_through(path, chosen["memory_bytes"])
                    say(json.dumps(_loops(path, read, chosen, trial.seed + number)))

                child = Child(body)
                line = child.line()
                if child.wait() or not line:
                    raise RuntimeError(f"the reader ended with {child.status}")
                found = json.loads(line)
                rates[name] = found["rows_per_s"]
                operations.append(Operation(name, {"round": number, **found}))
            for item in operations[-2:]:
                item.numbers["direct_over_mapped"] = rates["direct"] / rates["mapped"]
        reached = _times_reached(group)
    if not reached:
        raise AssertionError("the page cache never reached the cap")
    return Outcome(operations, facts={"cap_reached": reached})


def _read_through(path: Path, size: int) -> None:
    """Read so much of a file from its beginning that the page cache is as full as it may be."""
    with open(path, "rb") as file:
        for _ in range(0, size, 1 << 20):
            file.read(1 << 20)


def _loops(path: Path, read: Callable[[Path, np.ndarray, float], int], chosen: dict[str, Any], seed: int) -> dict:
    """Read in some threads for some seconds; return pages a second."""
    counts = [0] * chosen["threads"]

    def run(number: int) -> None:
        pages = np.random.default_rng([seed, number]).integers(0, chosen["file_bytes"] // PAGE, CHOSEN)
        counts[number] = read(path, pages, chosen["seconds"])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(chosen["threads"])]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    return {"rows": sum(counts), "seconds": seconds, "rows_per_s": sum(counts) / seconds}


def _read_mapped(path: Path, pages: np.ndarray, seconds: float) -> int:
    """Touch a byte of each page of the mapped file, told to be read at random."""
    with open(path, "rb") as file:
        region = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        region.madvise(mmap.MADV_RANDOM)
        memory = np.frombuffer(region, np.uint8)  # the mapping goes with the last array over it
        return _until(seconds, pages, lambda some: _touch(memory, some, PAGE))


def _read_direct(path: Path, pages: np.ndarray, seconds: float) -> int:
    """Read each page past the page cache."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffer = [mmap.mmap(-1, PAGE)]
    try:
        return _until(
            seconds, pages, lambda some: [os.preadv(descriptor, buffer, page * PAGE) for page in some.tolist()]
        )
    finally:
        os.close(descriptor)


def _until(seconds: float, pages: np.ndarray, read: Callable[[np.ndarray], object]) -> int:
    """Read pages, a few at a time, until the time is over; return how many were read."""
    end, done = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        read(pages[done % pages.size :][:AT_ONCE])
        done += AT_ONCE
    return done


@kernel
def _touch(memory, pages, size):
    """Read a byte of each page; other threads run while the kernel fetches it."""
    total = np.uint64(0)
    for page in pages:
        total += memory[page * size]
    return total


def warm_up() -> None:
    """Compile or load the kernel, for memory that may be written and that may not."""
    pages, memory = np.zeros(1, np.int64), np.zeros(PAGE, np.uint8)
    _touch(memory, pages, PAGE)
    memory.flags.writeable = False
    _touch(memory, pages, PAGE)


def _fill(path: Path, size: int) -> None:
    """Write a file of random bytes, all of it on the disk."""
    with open(path, "wb") as file:
        for _ in range(0, size, 1 << 24):
            file.write(os.urandom(1 << 24))
        file.flush()
        os.fsync(file.fileno())


def _forget(path: Path) -> None:
    """Drop the file's pages from the page cache."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def _memory_cap(size: int) -> Iterator[Path]:
    """Make a control group that caps memory and page cache; processes enter it by its file ``cgroup.procs``.

    Raises
    ------
    NotApplicableError
        There is no such controller here, or this user may not make groups.
    """
    for parent, limit in ((CGROUPS / "memory", "memory.limit_in_bytes"), (CGROUPS, "memory.max")):
        group = parent / f"geometric-ledger-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if not (group / limit).exists():
                continue
            (group / limit).write_text(str(size))
            yield group
            return
        finally:
            _remove(group)
    raise NotApplicableError("memory cannot be capped: this user may not make a control group with a memory limit")


def _times_reached(group: Path) -> int:
    """Return how often the group's memory was at its cap."""
    if (group / "memory.failcnt").exists():
        return int((group / "memory.failcnt").read_text())
    events = dict(line.split() for line in (group / "memory.events").read_text().splitlines())
    return int(events["max"])


def _remove(group: Path) -> None:
    """Remove a control group, which takes its processes a moment to leave."""
    for _ in range(50):
        try:
            group.rmdir()
            return
        except OSError:
            time.sleep(0.02)
