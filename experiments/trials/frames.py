"""A plain sequential writer: one log frame after the other to the bare disk, and nothing else."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from ledger.storage import directio

FRAMES: Final = 32
"""Frames that the file holds; it is written over and over, as a log that is recycled."""


class FrameWriter:
    """A file of `FRAMES` frames, allocated and written once, and three ways to overwrite them durably.

    Parameters
    ----------
    path
        The file; it is unlinked at once.
    frame_bytes
        Size of a frame, whole blocks.
    """

    def __init__(self, path: Path, frame_bytes: int) -> None:
        self._size = frame_bytes
        self._buffers = [np.frombuffer(mmap.mmap(-1, frame_bytes), np.uint8) for _ in range(2)]
        for number, buffer in enumerate(self._buffers):
            buffer[:] = np.random.default_rng(number).integers(0, 256, frame_bytes, np.uint8)
        self._at = 0
        self._cached = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.posix_fallocate(self._cached, 0, frame_bytes * FRAMES)
        for number in range(FRAMES):
            os.pwrite(self._cached, self._buffers[0], number * frame_bytes)
        os.fsync(self._cached)
        self._direct = -1
        with contextlib.suppress(OSError, AttributeError):  # a file system, or a system, without O_DIRECT
            self._direct = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC)
            os.pwrite(self._direct, self._buffers[0], 0)
        path.unlink()

    @property
    def ways(self) -> dict[str, Callable[[list[int]], None]]:
        """The ways that this file system takes; each writes as many frames as its argument has entries."""
        direct = {"direct": self.write_direct, "direct, two in flight": self.write_two}
        return {**(direct if self._direct >= 0 else {}), "fdatasync": self.write_synced}

    def write_direct(self, frames: list[int]) -> None:
        """Write past the page cache, each frame durable before the next one starts."""
        for offset in self._offsets(frames):
            os.pwrite(self._direct, self._buffers[0], offset)

    def write_two(self, frames: list[int]) -> None:
        """Write past the page cache with two frames under way."""
        waiting: list[Any] = []
        for number, offset in enumerate(self._offsets(frames)):
            if len(waiting) == 2:
                waiting.pop(0).finish()
            waiting.append(directio.start(self._direct, self._buffers[number % 2], offset, True))
        for write in waiting:
            write.finish()

    def write_synced(self, frames: list[int]) -> None:
        """Write through the page cache and sync after each frame."""
        for offset in self._offsets(frames):
            os.pwrite(self._cached, self._buffers[0], offset)
            os.fdatasync(self._cached)

    def _offsets(self, frames: list[int]) -> Iterator[int]:
        """Yield where the next frames go, around the end of the file."""
        for _ in frames:
            yield self._at * self._size
            self._at = (self._at + 1) % FRAMES

    def close(self) -> None:
        """Close the file, which is gone with that."""
        for descriptor in {self._cached, self._direct} - {-1}:
            os.close(descriptor)
