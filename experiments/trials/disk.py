"""The bare disk: the same bytes written sequentially and durably, into a file already written once."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path
from typing import Final

from experiments import measure
from experiments.measure import Histogram
from experiments.trial import Operation

BLOCK_BYTES: Final = 4096
_FILE_BYTES_MAX: Final = 256 << 20


def sequential(path: Path, frame_bytes: int, calls: int) -> Operation:
    """Write `calls` frames in order, each durable before the next, and return what they took.

    O_DIRECT|O_DSYNC where the file system takes it, else pwrite and fdatasync: the way that a log writes.
    """
    frame = -(-frame_bytes // BLOCK_BYTES) * BLOCK_BYTES
    slots = max(1, min(calls, _FILE_BYTES_MAX // frame))
    buffer = mmap.mmap(-1, frame)
    buffer.write(os.urandom(frame))
    descriptor, direct = _prepare(path, buffer, slots)
    try:

        def write(number: int) -> None:
            if os.pwrite(descriptor, buffer, number % slots * frame) != frame:
                raise OSError(errno.EIO, "short write", str(path))
            if not direct:
                os.fdatasync(descriptor)

        latencies, used = measure.run_calls(write, range(calls))
    finally:
        os.close(descriptor)
        path.unlink()
    histogram = Histogram.of(latencies)
    seconds = histogram.sum / 1e9
    numbers = {
        "calls": calls,
        "seconds": seconds,
        "seconds_per_call": seconds / calls,
        "calls_per_s": calls / seconds,
        "frame_bytes": frame,
        "bytes_per_s": frame * calls / seconds,
        "direct": direct,
        **used,
        **histogram.quantiles(),
    }
    return Operation("disk", numbers, {"latency": histogram})


def _prepare(path: Path, buffer: mmap.mmap, slots: int) -> tuple[int, bool]:
    """Write the file once and return a descriptor for overwriting it, and whether it goes past the cache."""
    frame = len(buffer)
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, frame * slots)
        for number in range(slots):
            os.pwrite(file.fileno(), buffer, number * frame)
        os.fsync(file.fileno())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC)
        os.pwrite(descriptor, buffer, 0)
    except OSError:
        return os.open(path, os.O_WRONLY), False
    return descriptor, True
