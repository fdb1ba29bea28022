"""Memory that the kernels work in: reserved address space, mapped files, anonymous and huge pages.

Invariants:

- a reservation's base never moves; whatever is mapped into it stays until the reservation itself is dropped;
- an array over a reservation keeps it alive, so no kernel call can meet memory that was unmapped;
- a file is long enough before it is mapped: touching a page behind the end of a file is a SIGBUS.

What was asked of the kernel is a wish; what it gave is read back from /proc/self/smaps.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ledger.layout import HUGE_BYTES, round_up

PROT_NONE: Final = 0
MAP_FIXED: Final = 0x10
MAP_NORESERVE: Final = 0x4000
MAP_HUGETLB: Final = 0x40000
MADV_DONTFORK: Final = 10
MADV_HUGEPAGE: Final = 14
MADV_NOHUGEPAGE: Final = 15
MADV_POPULATE_WRITE: Final = 23
MADV_WILLNEED: Final = 3
MAP_FAILED: Final = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_libc.msync.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Reservation:
    """A range of address space, 2 MiB aligned, into which files and memory are mapped.

    Not safe for use by several threads while it is being filled; afterwards only arrays over it are used.

    Parameters
    ----------
    size_bytes
        Address space to keep; nothing is readable in it until something is mapped.
    """

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = round_up(max(size_bytes, 1), HUGE_BYTES)
        self._raw_bytes = self.size_bytes + HUGE_BYTES
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        self._raw = _check_address(_libc.mmap(None, self._raw_bytes, PROT_NONE, flags, -1, 0))
        self.address = round_up(self._raw, HUGE_BYTES)
        weakref.finalize(self, _unmap, self._raw, self._raw_bytes, os.getpid()).atexit = False

    def map_file(self, offset: int, size: int, fd: int, *, shared: bool, writable: bool = True) -> None:
        """Map the first `size` bytes of a file at `offset`, to be written back by the kernel or never."""
        flags = (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE | MAP_NORESERVE) | MAP_FIXED
        prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        _check_address(_libc.mmap(self.address + offset, size, prot, flags, fd, 0))
        self.advise(offset, size, MADV_DONTFORK)

    def map_memory(self, offset: int, size: int, *, hugetlb: bool = False) -> None:
        """Map zeroed anonymous memory at `offset`; OSError when no huge page of the pool is free."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED | (MAP_HUGETLB if hugetlb else MAP_NORESERVE)
        prot = mmap.PROT_READ | mmap.PROT_WRITE
        _check_address(_libc.mmap(self.address + offset, size, prot, flags, -1, 0))
        self.advise(offset, size, MADV_DONTFORK)

    def advise(self, offset: int, size: int, advice: int) -> bool:
        """Give the kernel a hint about a part; tell whether it took it."""
        return _libc.madvise(self.address + offset, size, advice) == 0

    def resident(self, offset: int) -> bool:
        """Tell whether the page at `offset` can be touched without waiting for the disk, if the kernel says so."""
        page = ctypes.c_ubyte(1)
        _libc.mincore(self.address + offset // mmap.PAGESIZE * mmap.PAGESIZE, 1, ctypes.byref(page))
        return bool(page.value & 1)

    def msync(self, offset: int, size: int) -> None:
        """Write a shared mapping's dirty pages to its file and wait for them."""
        if _libc.msync(self.address + offset, size, mmap.MS_SYNC if hasattr(mmap, "MS_SYNC") else 4):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def words(self) -> np.ndarray:
        """Return the whole range as uint64 words; only mapped parts may be touched."""
        return np.asarray(_Words(self))

    @property
    def span(self) -> tuple[int, int]:
        """First address, and the one behind the last."""
        return self.address, self.address + self.size_bytes


def _unmap(address: int, size: int, pid: int) -> None:
    """Unmap; a child of fork does not have the range and must not unmap what took its place."""
    if pid == os.getpid():
        _libc.munmap(address, size)


class _Words:
    """Array interface of a reservation; numpy keeps it, and so the reservation, as the array's base."""

    def __init__(self, reservation: Reservation) -> None:
        self.reservation = reservation
        self.__array_interface__ = {
            "shape": (reservation.size_bytes // 8,),
            "typestr": "<u8",
            "data": (reservation.address, False),
            "version": 3,
        }


@dataclass(frozen=True, slots=True)
class Coverage:
    """Resident and huge bytes of an address range, as the kernel tells them."""

    resident_bytes: int = 0
    anonymous_bytes: int = 0
    huge_anonymous_bytes: int = 0
    huge_file_bytes: int = 0
    hugetlb_bytes: int = 0

    @property
    def huge_bytes(self) -> int:
        """Bytes mapped by huge pages of any kind."""
        return self.huge_anonymous_bytes + self.huge_file_bytes + self.hugetlb_bytes


_SMAPS_FIELDS: Final = {
    "Rss:": ("resident_bytes",),
    "Anonymous:": ("anonymous_bytes",),
    "AnonHugePages:": ("huge_anonymous_bytes",),
    "FilePmdMapped:": ("huge_file_bytes",),
    "ShmemPmdMapped:": ("huge_file_bytes",),
    "Private_Hugetlb:": ("hugetlb_bytes", "resident_bytes"),
}


def read_coverage(*spans: tuple[int, int]) -> list[Coverage]:
    """Sum /proc/self/smaps over the mappings within each span of addresses: how much is resident, and how much huge.

    **Complexity**: the kernel walks the page tables of the process; some milliseconds a GiB.
    """
    totals = [dict.fromkeys(Coverage.__slots__, 0) for _ in spans]
    sums: dict[str, int] | None = None
    try:
        lines = Path("/proc/self/smaps").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, rest = line.partition(" ")
        if name.endswith(":"):
            if sums is not None and name in _SMAPS_FIELDS:
                kilobytes = int(rest.split()[0])
                for field in _SMAPS_FIELDS[name]:
                    sums[field] += kilobytes * 1024
        elif "-" in name:
            low, _, high = name.partition("-")
            first, last = int(low, 16), int(high, 16)
            found = (sums for sums, (start, stop) in zip(totals, spans, strict=True) if first >= start and last <= stop)
            sums = next(found, None)
    return [Coverage(**sums) for sums in totals]


def hugetlb_pages_free() -> int:
    """Return the number of free 2 MiB pages in the kernel's pool."""
    try:
        return int(Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").read_text())
    except (OSError, ValueError):
        return 0


def thp_setting() -> str:
    """Return the kernel's setting for transparent huge pages: always, madvise, never, or absent."""
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return "absent"
    return text.partition("[")[2].partition("]")[0]


def _check_address(address: int | None) -> int:
    """Return the address of a new mapping, or raise what errno says."""
    if address is None or address == MAP_FAILED:
        code = ctypes.get_errno()
        raise OSError(code, f"mmap: {os.strerror(code)}")
    return address
