"""A pointer chase: the time of one dependent load over a footprint, which is what a TLB miss adds to."""

from __future__ import annotations

import mmap
import time
from typing import Any, Final

import numpy as np

from ledger.kernels.jit import kernel

LINE_BYTES: Final = 64
HUGE_BYTES: Final = 2 << 20
_MAP_HUGETLB: Final = 0x40000


@kernel
def _link(memory: np.ndarray, step: int, seed: int) -> None:
    """Make one random cycle through all lines (Sattolo's algorithm)."""
    lines = memory.size // step
    for i in range(lines):
        memory[i * step] = i * step
    state = np.uint64(seed) | np.uint64(1)
    for i in range(lines - 1, 0, -1):
        state ^= state << np.uint64(13)
        state ^= state >> np.uint64(7)
        state ^= state << np.uint64(17)
        j = np.int64(state % np.uint64(i))
        memory[i * step], memory[j * step] = memory[j * step], memory[i * step]


@kernel
def _chase(memory: np.ndarray, start: int, steps: int) -> int:
    """Follow the cycle."""
    at = start
    for _ in range(steps):
        at = memory[at]
    return at


def warm_up() -> None:
    """Compile or load the kernels."""
    memory = np.zeros(64, np.int64)
    _link(memory, 8, 1)
    _chase(memory, 0, 8)


def measure(footprint_bytes: int, hugepages: str, steps: int, seed: int) -> dict[str, Any]:
    """Return the time of a dependent load in ns, and the huge pages that the memory really had.

    Returns
    -------
    dict
        ``chase_ns`` None and ``chase_error`` where the kernel gives no such memory.
    """
    size = -(-footprint_bytes // HUGE_BYTES) * HUGE_BYTES
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        region = mmap.mmap(-1, size, flags=flags | (_MAP_HUGETLB if hugepages == "hugetlb" else 0))
    except OSError as error:
        return {"chase_ns": None, "chase_huge_share": 0.0, "chase_error": str(error)}
    if hugepages != "hugetlb":
        region.madvise(mmap.MADV_HUGEPAGE if hugepages == "thp" else mmap.MADV_NOHUGEPAGE)
    memory = np.frombuffer(region, np.int64)
    _link(memory, LINE_BYTES // 8, seed)
    at = _chase(memory, 0, min(steps, 100_000))
    start = time.perf_counter_ns()
    _chase(memory, at, steps)
    elapsed = time.perf_counter_ns() - start
    share = 1.0 if hugepages == "hugetlb" else huge_bytes(memory.ctypes.data) / size
    return {"chase_ns": elapsed / steps, "chase_huge_share": share, "chase_error": None}


def huge_bytes(address: int, field: str = "AnonHugePages") -> int:
    """Return what smaps counts as huge pages in the mapping that holds `address`; FilePmdMapped for one of a file."""
    inside = False
    with open("/proc/self/smaps", encoding="ascii", errors="replace") as file:
        for line in file:
            head = line.split(maxsplit=1)[0]
            if "-" in head and not head.endswith(":"):
                low, high = (int(part, 16) for part in head.split("-"))
                inside = low <= address < high
            elif inside and head == f"{field}:":
                return int(line.split()[1]) * 1024
    return 0
