"""Streams of operations: YCSB's six mixes, transfers, other access patterns, and traces that somebody recorded.

The mixes are those of YCSB's core workloads (Cooper et al., Benchmarking Cloud Serving Systems with YCSB, SoCC 2010);
`transfer` moves money between two accounts as TPC-B does between account, teller and branch (TPC Benchmark B, 1994),
without its history table. A stream is a function of its seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from experiments.baselines import field_words
from experiments.errors import ParameterError, nearest
from experiments.workload import Workload
from ledger import ACCOUNT

OPERATIONS: Final = ("read", "update", "insert", "modify", "delete", "scan")
READ, UPDATE, INSERT, MODIFY, DELETE, SCAN = range(len(OPERATIONS))
SCAN_ROWS_MAX: Final = 100
HOT_SHARE: Final = 0.2
HOT_OPERATIONS: Final = 0.8
AMOUNT_MAX: Final = 100
_VALUE_MAX: Final = 1 << 40


@dataclass(frozen=True)
class Stream:
    """Operations in their order, and the accounts that are there before the first.

    Attributes
    ----------
    operations : uint8[n]
        Places in `OPERATIONS`.
    numbers : int64[n]
        Rows of `keys`.
    values : uint64[n, 4]
        Fields that an update or an insert writes, or that a modify (read, change, write) adds modulo 2**64; the first
        of a scan is the number of accounts that it reads.
    keys : uint8[m, 32]
        All keys that are met.
    loaded : ACCOUNT[k]
        Accounts to begin with.
    due_ns : int64[n], optional
        When each operation is due, from the first on.
    pairs : bool
        Operations 2 i and 2 i + 1 are one transaction.
    """

    operations: np.ndarray
    numbers: np.ndarray
    values: np.ndarray
    keys: np.ndarray
    loaded: np.ndarray
    due_ns: np.ndarray | None = None
    pairs: bool = False

    def __len__(self) -> int:
        """Return the number of operations."""
        return len(self.operations)


@dataclass(frozen=True)
class Mix:
    """Shares of operations, and how accounts are chosen."""

    shares: Mapping[int, float]
    keys: str
    text: str


MIXES: Final = {
    "ycsb_a": Mix({READ: 0.5, UPDATE: 0.5}, "zipf", "half reads, half updates"),
    "ycsb_b": Mix({READ: 0.95, UPDATE: 0.05}, "zipf", "reads, 5 % updates"),
    "ycsb_c": Mix({READ: 1.0}, "zipf", "reads only"),
    "ycsb_d": Mix({READ: 0.95, INSERT: 0.05}, "latest", "reads of what was inserted last, 5 % inserts"),
    "ycsb_e": Mix({SCAN: 0.95, INSERT: 0.05}, "zipf", "scans of 1 to 100 accounts, 5 % inserts"),
    "ycsb_f": Mix({READ: 0.5, MODIFY: 0.5}, "zipf", "half reads, half reads with a write after them"),
    "transfer": Mix({MODIFY: 1.0}, "uniform", "debit and credit, as one transaction"),
    "uniform": Mix({READ: 0.5, UPDATE: 0.5}, "uniform", "as A, all accounts alike"),
    "hotspot": Mix({READ: 0.5, UPDATE: 0.5}, "hotspot", "as A, 80 % on a fifth of the accounts"),
    "sequential": Mix({READ: 0.5, UPDATE: 0.5}, "sequential", "as A, one account after the other"),
    "growing": Mix({READ: 0.5, INSERT: 0.5}, "uniform", "half inserts, reads of all that is there"),
    "mixed": Mix({READ: 0.5, UPDATE: 0.3, INSERT: 0.1, DELETE: 0.1}, "zipf", "all but scans"),
}
"""By name; YCSB's zipf is the exponent 0.99, its popular keys spread over the store."""


def make(name: str, work: Workload, count: int, stream: int = 1) -> Stream:
    """Return `count` operations of a mix over the accounts of a workload.

    Raises
    ------
    ParameterError
        There is no such mix.
    """
    if name not in MIXES:
        raise ParameterError(f"there is no workload {name}", hint=nearest(name, [*MIXES, "trace"]), name="workload")
    mix = MIXES[name]
    random = np.random.Generator(np.random.Philox(key=[work.seed, (1 << 32) + stream]))
    shares = list(mix.shares.values())
    operations = random.choice(np.array(list(mix.shares), np.uint8), count, p=shares)
    inserts = operations == INSERT
    present = work.accounts + np.cumsum(inserts) - inserts
    numbers = np.where(inserts, present, _choose(mix.keys, work, present, random, stream))
    values = random_values(random, operations)
    loaded = work.records(np.arange(work.accounts), 0)
    if name == "transfer":
        numbers, values = _transfers(random, work, count)
        operations = np.full(len(numbers), MODIFY, np.uint8)
    keys = work.pubkeys(np.arange(work.accounts + int(inserts.sum())))
    return Stream(operations, numbers, values, keys, loaded, pairs=name == "transfer")


def random_values(random: np.random.Generator, operations: np.ndarray) -> np.ndarray:
    """Return what each operation writes, adds or scans (uint64[n, 4])."""
    values = random.integers(0, _VALUE_MAX, (len(operations), 4), dtype=np.uint64)
    values[operations == MODIFY] &= np.uint64(0xFFFF)
    values[operations == SCAN] = values[operations == SCAN] % np.uint64(SCAN_ROWS_MAX) + np.uint64(1)
    return values


def loaded_records(keys: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return accounts (ACCOUNT[n]) of keys with random fields."""
    records = np.zeros(len(keys), ACCOUNT)
    records["pubkey"] = keys
    field_words(records)[:] = random.integers(0, _VALUE_MAX, (len(keys), 4), dtype=np.uint64)
    return records


def _choose(keys: str, work: Workload, present: np.ndarray, random: np.random.Generator, stream: int) -> np.ndarray:
    """Return an account for each operation; `present` accounts are there when it comes."""
    count = len(present)
    if keys == "uniform":
        return (random.random(count) * present).astype(np.int64)
    if keys == "sequential":
        return np.arange(count) % work.accounts
    if keys == "hotspot":
        hot = max(1, int(work.accounts * HOT_SHARE))
        cold = random.integers(min(hot, work.accounts - 1), work.accounts, count)
        return work.spread(np.where(random.random(count) < HOT_OPERATIONS, random.integers(0, hot, count), cold))
    ranks = work.ranks(count, stream)
    return present - 1 - ranks if keys == "latest" else work.spread(ranks)


def _transfers(random: np.random.Generator, work: Workload, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return accounts and amounts of `count` transfers: what one loses the next gets."""
    debtor = random.integers(0, work.accounts, count)
    creditor = (debtor + random.integers(1, max(2, work.accounts), count)) % work.accounts
    amounts = random.integers(1, AMOUNT_MAX + 1, count, dtype=np.uint64)
    values = np.zeros((2 * count, 4), np.uint64)
    values[0::2, 0], values[1::2, 0] = np.uint64(0) - amounts, amounts
    values[:, 1] = 1
    return np.stack([debtor, creditor], axis=1).ravel(), values
