"""Ordered access, prefetch and CRC-32C against the instructions they must become."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import google_crc32c
import numba
import numpy as np
import pytest

from ledger.kernels import intrinsics as it
from ledger.kernels.jit import kernel
from tests.children import run_python

ROOT = Path(it.__file__).resolve().parents[2]
ZERO = np.uint64(0)


# ---------------------------------------------------------------- words
@kernel
def exercise_words(words):
    """Use every operation on words once and return what each answered."""
    it.store_relaxed(words, 0, 5)
    it.store_release(words, np.uint64(1), 7)
    swapped = it.compare_swap(words, 0, 5, 6)
    refused = it.compare_swap(words, 0, 5, 8)
    old = it.fetch_add(words, 1, 3)
    it.fence_release()
    it.fence_acquire()
    it.spin_pause()
    it.prefetch_read(words, 1 << 40)
    it.prefetch_write(words, 0)
    return swapped, refused, old, it.load_acquire(words, 0), it.load_relaxed(words, np.uint64(1))


@pytest.mark.parametrize("dtype", [np.uint64, np.int64])
def test_every_operation_on_words_does_what_it_says(dtype: type) -> None:
    words = np.zeros(2, dtype)
    assert (True, False, 7, 6, 10) == exercise_words(words)
    assert [6, 10] == words.tolist()


@kernel
def load_through_address(words):
    """Load the second word by its address, both ways."""
    address = it.address_of(words) + np.uint64(8)
    return address, it.load_u64(address), it.load_u64_acquire(address)


def test_words_are_loaded_through_their_address() -> None:
    words = np.array([1, 2**64 - 2], np.uint64)
    assert (words.ctypes.data + 8, 2**64 - 2, 2**64 - 2) == load_through_address(words)


@kernel
def prefetch_bytes(data):
    """Prefetch bytes for reading and writing."""
    it.prefetch_read(data, 0)
    it.prefetch_write(data, 1)


def test_prefetch_takes_bytes_and_changes_nothing() -> None:
    data = np.arange(2, dtype=np.uint8)
    prefetch_bytes(data)
    assert [0, 1] == data.tolist()


def test_arrays_of_the_wrong_kind_are_refused_at_compile_time() -> None:
    @numba.njit
    def load(words):
        return it.load_acquire(words, 0)

    for wrong in (np.zeros(4, np.uint32), np.zeros(4, np.uint64)[::2], np.zeros((2, 2), np.uint64)):
        with pytest.raises(numba.TypingError, match="1-D C-contiguous array of uint64"):
            load(wrong)


@kernel
def add_many(words, times):
    """Add one, `times` times, with swaps and additions in turn."""
    for _ in range(times):
        it.fetch_add(words, 0, 1)
        old = it.load_relaxed(words, 1)
        while not it.compare_swap(words, 1, old, old + np.uint64(1)):
            old = it.load_relaxed(words, 1)


def test_two_threads_lose_no_addition_and_no_swap() -> None:
    words = np.zeros(2, np.uint64)
    add_many(words, 0)
    threads = [threading.Thread(target=add_many, args=(words, 100_000)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [200_000, 200_000] == words.tolist()


# ---------------------------------------------------------------- the emitted code
WRITER_ORDER = (
    "store atomic .* monotonic",
    "fence release",
    "store atomic .* monotonic",
    "store atomic .* release",
)
READER_ORDER = (
    "load atomic .* acquire",
    "load atomic .* monotonic",
    "fence acquire",
    "load atomic .* monotonic",
)


def llvm_of(function, *signature) -> str:
    """Compile without the disk cache and return the optimised LLVM code."""
    compiled = numba.njit(signature)(function)
    return compiled.inspect_llvm(compiled.signatures[0])


def in_order(code: str, steps: tuple[str, ...]) -> bool:
    """Tell whether the steps stand in the code one after the other."""
    return re.search(".*".join(step.replace(".*", "[^\n]*") for step in steps), code, re.DOTALL) is not None


def test_a_sequence_lock_keeps_its_fences_in_the_emitted_code() -> None:
    def write(words, value):
        it.store_relaxed(words, 0, 1)
        it.fence_release()
        it.store_relaxed(words, 1, value)
        it.store_release(words, 0, 2)

    def write_without_fence(words, value):
        it.store_relaxed(words, 0, 1)
        it.store_relaxed(words, 1, value)
        it.store_release(words, 0, 2)

    def read(words):
        before = it.load_acquire(words, 0)
        value = it.load_relaxed(words, 1)
        it.fence_acquire()
        return value if it.load_relaxed(words, 0) == before else ZERO

    def read_without_fence(words):
        before = it.load_acquire(words, 0)
        value = it.load_relaxed(words, 1)
        return value if it.load_relaxed(words, 0) == before else ZERO

    words = numba.uint64[::1]
    assert in_order(llvm_of(write, words, numba.uint64), WRITER_ORDER)
    assert in_order(llvm_of(read, words), READER_ORDER)
    # The canaries: what lacks a fence must not pass.
    assert not in_order(llvm_of(write_without_fence, words, numba.uint64), WRITER_ORDER)
    assert not in_order(llvm_of(read_without_fence, words), READER_ORDER)


def test_swaps_additions_and_prefetches_are_in_the_emitted_code() -> None:
    def everything(words):
        it.prefetch_read(words, 3)
        it.prefetch_write(words, 4)
        it.spin_pause()
        return it.compare_swap(words, 0, 1, 2), it.fetch_add(words, 1, 1)

    code = llvm_of(everything, numba.uint64[::1])
    for expected in (
        r"cmpxchg ptr [^\n]* acq_rel acquire",
        r"atomicrmw add ptr [^\n]* acq_rel",
        r"llvm.prefetch.p0\(ptr [^\n]*, i32 0, i32 3, i32 1\)",
        r"llvm.prefetch.p0\(ptr [^\n]*, i32 1, i32 3, i32 1\)",
    ):
        assert re.search(expected, code), expected
    assert it.IS_X86 == ("llvm.x86.sse2.pause" in code)


BOUNDS = """
import numpy as np
from ledger.kernels import intrinsics as it
from ledger.kernels.jit import kernel

@kernel
def run(words, which, i):
    if which == 0:
        it.load_acquire(words, i)
    elif which == 1:
        it.load_relaxed(words, i)
    elif which == 2:
        it.store_release(words, i, 1)
    elif which == 3:
        it.store_relaxed(words, i, 1)
    elif which == 4:
        it.compare_swap(words, i, 0, 0)
    elif which == 5:
        it.fetch_add(words, i, 1)
    else:
        it.prefetch_read(words, i)

raised = []
for which in range(7):
    for i in (0, 3, 4, -1):
        try:
            run(np.zeros(4, np.uint64), which, i)
        except IndexError:
            raised.append((which, i))
print(raised == [(which, i) for which in range(6) for i in (4, -1)])
"""


def test_an_index_out_of_range_raises_when_bounds_are_checked() -> None:
    assert "True\n" == run_python(BOUNDS, NUMBA_BOUNDSCHECK="1")


# ---------------------------------------------------------------- CRC-32C
def checksum_twin(words: np.ndarray) -> int:
    """Compute `checksum_words` with a package and slices."""
    lanes = [google_crc32c.value(words[lane::4].tobytes()) for lane in range(4)]
    return google_crc32c.value(np.array([*lanes, len(words)], np.uint64).tobytes())


@pytest.fixture
def words() -> np.ndarray:
    """Random words."""
    return np.random.default_rng(11).integers(0, 2**64, 1003, dtype=np.uint64)


def test_crc32c_of_words_is_the_common_crc32c_of_their_bytes(words: np.ndarray) -> None:
    for start, stop in ((0, 0), (0, 1), (3, 8), (0, 1003)):
        data = words[start:stop].tobytes()
        assert google_crc32c.value(data) == it.crc32c_words(words, start, stop, ZERO)
        head = it.crc32c_words(words, 0, start, ZERO)
        assert google_crc32c.extend(int(head), data) == it.crc32c_words(words, start, stop, np.uint64(head))


def test_crc32c_of_nine_digits_is_the_published_check_value() -> None:
    register = 0xFFFFFFFF
    for byte in b"123456789":
        register = (register >> 8) ^ int(it._CRC_TABLES[(register ^ byte) & 0xFF])
    assert 0xE3069283 == register ^ 0xFFFFFFFF


def test_the_checksum_of_a_large_buffer_is_its_four_lanes_folded(words: np.ndarray) -> None:
    for start, stop in [(0, n) for n in range(10)] + [(5, 12), (1, 1003)]:
        assert checksum_twin(words[start:stop]) == it.checksum_words(words, start, stop)


def test_a_flipped_bit_or_swapped_words_change_the_checksum(words: np.ndarray) -> None:
    before = it.checksum_words(words, 0, len(words))
    flipped = words.copy()
    flipped[500] ^= np.uint64(1 << 63)
    swapped = words.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    assert before != it.checksum_words(flipped, 0, len(words))
    assert before != it.checksum_words(swapped, 0, len(words))
    assert before != it.checksum_words(words, 0, len(words) - 1)


@kernel
def step_both_ways(register, word):
    """Advance a register with the chosen function and with the tables."""
    return it.crc32c_u64(register, word), it.crc32c_u64_portable(register, word)


def test_the_portable_twin_equals_the_chosen_one(words: np.ndarray) -> None:
    for word in words[:50]:
        chosen, portable = step_both_ways(word >> np.uint64(32), word)
        assert chosen == portable


PORTABLE = """
import numpy as np
from ledger.kernels import intrinsics as it
words = np.arange(1, 12, dtype=np.uint64)
print(it.HAS_CRC_INSTRUCTION, it.crc32c_words(words, 0, 11, np.uint64(0)), it.checksum_words(words, 0, 11))
"""


def test_the_portable_twin_is_used_when_asked_for() -> None:
    words = np.arange(1, 12, dtype=np.uint64)
    expected = f"False {google_crc32c.value(words.tobytes())} {checksum_twin(words)}\n"
    assert expected == run_python(PORTABLE, GEOLEDGER_PORTABLE="1")
