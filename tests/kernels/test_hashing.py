"""Keyed BLAKE3 against the blake3 package."""

from __future__ import annotations

from pathlib import Path

import blake3
import numpy as np
import pytest

from ledger.kernels import hashing
from ledger.kernels.jit import kernel
from tests.children import run_python

ROOT = Path(hashing.__file__).resolve().parents[2]


def digest_twin(rows: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Hash the first 32 bytes of every row with the package; uint32[3, n]."""
    hashed = [blake3.blake3(row[:4].tobytes(), key=key.tobytes()).digest()[:12] for row in rows]
    return np.frombuffer(b"".join(hashed), "<u4").reshape(-1, 3).T


def random_rows(count: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random rows and a random hash key; the first rows are all zeros and all ones."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 2**64, (count, width), dtype=np.uint64)
    rows[:1], rows[1:2] = 0, 2**64 - 1
    return rows, rng.integers(0, 2**32, 8, dtype=np.uint32)


@kernel
def hash_singly(rows, key, out):
    """Hash every row with `hash1`."""
    for row in range(rows.shape[0]):
        hashing.hash1(rows, row, key, out, row)


@kernel
def hash_words(rows, key, out):
    """Hash every row with `hash1_words`."""
    for row in range(rows.shape[0]):
        out[0, row], out[1, row], out[2, row] = hashing.hash1_words(
            rows[row, 0], rows[row, 1], rows[row, 2], rows[row, 3], key
        )


@kernel
def hash_pieces(rows, key, out, state):
    """Hash whole groups of eight piece by piece."""
    for row in range(0, rows.shape[0], 8):
        hashing.hash8_start(rows, row, key, state)
        hashing.hash8_part(state, 0)
        hashing.hash8_part(state, 1)
        hashing.hash8_part(state, 2)
        hashing.hash8_part(state, 3)
        hashing.hash8_finish(state, out, np.uint64(row))


@pytest.mark.parametrize("width", [4, 8, 16])
def test_a_batch_equals_the_package(width: int) -> None:
    rows, key = random_rows(45, width, width)
    out = np.zeros((3, 47), np.uint32)
    hashing.hash_rows(rows, key, out)
    assert np.array_equal(digest_twin(rows, key), out[:, :45])
    assert not out[:, 45:].any()


def test_one_at_a_time_and_in_pieces_equal_the_package() -> None:
    rows, key = random_rows(48, 8, 2)
    expected = digest_twin(rows, key)
    for function, extra in (
        (hash_singly, ()),
        (hash_words, ()),
        (hash_pieces, (np.zeros(hashing.STATE_WORDS, np.uint32),)),
    ):
        out = np.zeros((3, 48), np.uint32)
        function(rows, key, out, *extra)
        assert np.array_equal(expected, out), function


def test_rows_and_results_may_lie_at_any_multiple_of_their_word() -> None:
    rows, key = random_rows(16, 4, 3)
    expected = digest_twin(rows, key)
    for shift in range(4):
        space = np.zeros(64 + shift, np.uint64)[shift:].reshape(16, 4)
        space[:] = rows
        out = np.zeros(48 + shift, np.uint32)[shift:].reshape(3, 16)
        hashing.hash_rows(space, key, out)
        assert np.array_equal(expected, out)


def test_read_only_rows_are_hashed() -> None:
    rows, key = random_rows(9, 4, 4)
    frozen = np.frombuffer(rows.tobytes(), np.uint64).reshape(9, 4)
    out = np.zeros((3, 9), np.uint32)
    hashing.hash_rows(frozen, key, out)
    assert np.array_equal(digest_twin(rows, key), out)


def test_another_hash_key_gives_other_digests() -> None:
    rows, key = random_rows(9, 8, 5)
    outs = np.zeros((2, 3, 9), np.uint32)
    hashing.hash_rows(rows, key, outs[0])
    key[7] ^= 1
    hashing.hash_rows(rows, key, outs[1])
    assert not (outs[0] == outs[1]).all(axis=0).any()


def test_a_part_that_is_not_a_literal_is_refused() -> None:
    import numba

    @numba.njit
    def wrong(state, part):
        hashing.hash8_part(state, part)

    with pytest.raises(numba.TypingError, match="expected a literal from 0 to 3"):
        wrong(np.zeros(hashing.STATE_WORDS, np.uint32), 0)


SUM = """
import numpy as np
from ledger.kernels import hashing
rows = np.arange(44, dtype=np.uint64).reshape(11, 4)
out = np.zeros((3, 11), np.uint32)
hashing.hash_rows(rows, np.arange(8, dtype=np.uint32), out)
print(out.tobytes().hex())
"""


def test_a_cpu_without_any_vector_extension_gives_the_same_digests() -> None:
    rows = np.arange(44, dtype=np.uint64).reshape(11, 4)
    expected = digest_twin(rows, np.arange(8, dtype=np.uint32)).tobytes().hex() + "\n"
    assert expected == run_python(SUM, GEOLEDGER_PORTABLE="1", NUMBA_CPU_NAME="generic")


BOUNDS = """
import numpy as np
from ledger.kernels import hashing
from ledger.kernels.jit import kernel

@kernel
def run(rows, row, key, out, at):
    hashing.hash8(rows, row, key, out, at)

rows, key, out = np.zeros((9, 4), np.uint64), np.zeros(8, np.uint32), np.zeros((3, 10), np.uint32)
raised = []
for case in ((rows, 1, key, out, 2), (rows, 2, key, out, 0), (rows, -1, key, out, 0), (rows, 0, key, out, 3),
             (rows, 0, key, out, -1), (rows, 0, key[:7], out, 0), (rows, 0, key, out[:2], 0)):
    try:
        run(*case)
        raised.append(0)
    except IndexError:
        raised.append(1)
print(raised)
"""


def test_rows_and_columns_out_of_range_raise_when_bounds_are_checked() -> None:
    assert "[0, 1, 1, 1, 1, 1, 1]\n" == run_python(BOUNDS, NUMBA_BOUNDSCHECK="1")
