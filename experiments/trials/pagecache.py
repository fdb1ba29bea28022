"""The kernel's cache of a ledger's files: drop it, ask for it, and see how much of it is there."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

_PIECE_BYTES: Final = 8 << 20
_libc = ctypes.CDLL(None, use_errno=True)


def files(path: Path, prefix: tuple[str, ...] | str = ("shard_", "index_")) -> Iterator[Path]:
    """Yield the image files of a ledger, shards and indexes, or those whose names begin otherwise."""
    for name in sorted(path.rglob("*")):
        if name.is_file() and name.name.startswith(prefix) and name.stat().st_size:
            yield name


def drop(path: Path) -> dict[str, float]:
    """Write a ledger's files out and drop their cached pages; return how much of its image stayed (it should be 0)."""
    for name in files(path, ""):
        descriptor = os.open(name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return {"resident_share_dropped": resident_share(path)}


def read_once(path: Path) -> int:
    """Read a ledger's image from its first byte to its last, and return how many there are.

    Before each piece the kernel is asked for the one after it, so that the disk is never idle.
    """
    buffer = memoryview(mmap.mmap(-1, _PIECE_BYTES))
    total = 0
    for name in files(path):
        descriptor = os.open(name, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 2 * _PIECE_BYTES, os.POSIX_FADV_WILLNEED)
            at = 0
            while got := os.preadv(descriptor, [buffer], at):
                at += got
                os.posix_fadvise(descriptor, at + _PIECE_BYTES, _PIECE_BYTES, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)
        total += at
    return total


def will_need(path: Path) -> None:
    """Ask the kernel to read a ledger's files ahead."""
    for name in files(path):
        descriptor = os.open(name, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def resident_share(path: Path) -> float:
    """Return the share of a ledger's image that is in the page cache."""
    resident = total = 0
    for name in files(path):
        size = name.stat().st_size
        pages = -(-size // mmap.PAGESIZE)
        seen = (ctypes.c_ubyte * pages)()
        with open(name, "rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as view:
            data = np.frombuffer(view, np.uint8)
            address = data.ctypes.data
            if _libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), seen):
                raise OSError(ctypes.get_errno(), "mincore failed", str(name))
            del data
        resident += int((np.frombuffer(seen, np.uint8) & 1).sum())
        total += pages
    return resident / total if total else 0.0
