"""Keys, records and the order in which they are asked for: a function of a seed, nothing else.

Account number i of a seed has always the same key, and version v of it always the same record, so that
two trials with equal settings leave equal ledgers, on any machine and with any number of threads.
Random numbers are counters put through splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom
number generators, 2014); choices are numpy's Philox.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from ledger import ACCOUNT
from ledger.kernels.jit import kernel

DISTRIBUTIONS: Final = ("uniform", "zipf")
ZIPF_EXPONENT: Final = 0.99
_ABSENT: Final = 1 << 40  # accounts from here on are never written
_ODD: Final = 0x9E3779B1  # spreads the popular accounts over the ledger; prime, so it is a bijection


@kernel
def _fill(numbers: np.ndarray, seed: np.uint64, words: int, out: np.ndarray) -> None:
    """Write `words` random words for each number into out[uint64[n, words]]."""
    for i in range(numbers.size):
        for word in range(words):
            x = (np.uint64(numbers[i]) * np.uint64(words) + np.uint64(word) + np.uint64(1)) * np.uint64(
                0x9E3779B97F4A7C15
            ) + seed
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            out[i, word] = x ^ (x >> np.uint64(31))


@kernel
def _zipf(uniform: np.ndarray, size: int, s: float, out: np.ndarray) -> int:
    """Turn uniform numbers into Zipf ranks 0..size-1; return how many uniforms were used up.

    Rejection-inversion for exponents below and above 1 (Hoermann, Derflinger: Rejection-inversion to
    generate variates from monotone discrete distributions, 1996).
    """
    one = 1.0 - s
    left = (1.5**one - 1.0) / one - 1.0
    right = ((size + 0.5) ** one - 1.0) / one
    cut = 2.0 - (((2.5**one - 1.0) / one - 2.0 ** (-s)) * one + 1.0) ** (1.0 / one)
    filled = 0
    for i in range(uniform.size):
        if filled == out.size:
            return i
        u = right + uniform[i] * (left - right)
        x = (1.0 + u * one) ** (1.0 / one)
        k = math.floor(min(max(x + 0.5, 1.0), float(size)))
        if k - x <= cut or u >= ((k + 0.5) ** one - 1.0) / one - k ** (-s):
            out[filled] = np.int64(k) - 1
            filled += 1
    return uniform.size if filled == out.size else -filled - 1


@dataclass(frozen=True)
class Workload:
    """A seeded set of accounts and a way to choose among them.

    Parameters
    ----------
    accounts
        Accounts that exist, numbered from 0.
    seed
        Fixes every key, record and choice.
    keys
        "uniform", or "zipf" with exponent 0.99 (the popular accounts spread over the ledger).
    """

    accounts: int
    seed: int = 1
    keys: str = "uniform"

    def __post_init__(self) -> None:
        """Refuse a distribution that does not exist."""
        if self.keys not in DISTRIBUTIONS:
            raise ValueError(f"keys is {self.keys!r}, not one of {', '.join(DISTRIBUTIONS)}")

    @property
    def hash_key(self) -> bytes:
        """Return the key of the ledger's hash that belongs to the seed."""
        return self.pubkeys(np.array([_ABSENT << 8], np.int64)).tobytes()

    def pubkeys(self, numbers: np.ndarray) -> np.ndarray:
        """Return the keys (uint8[n, 32]) of accounts."""
        out = np.empty((numbers.size, 4), np.uint64)
        _fill(numbers, np.uint64(self.seed * 2), 4, out)
        return out.view(np.uint8)

    def records(self, numbers: np.ndarray, version: int) -> np.ndarray:
        """Return the records (ACCOUNT[n]) of accounts at a version; balances stay below 2**40."""
        out = np.empty(numbers.size, ACCOUNT)
        out["pubkey"] = self.pubkeys(numbers)
        fields = np.empty((numbers.size, 4), np.uint64)
        _fill(numbers, np.uint64(self.seed * 2 + 1 + (version << 20)), 4, fields)
        for column, name in enumerate(("balance", "nonce", "staked", "last_modified")):
            out[name] = fields[:, column] >> np.uint64(24)
        return out

    def choose(self, count: int, stream: int) -> np.ndarray:
        """Return `count` account numbers (int64[count]); each stream is its own sequence."""
        if self.keys == "uniform":
            return self._random(stream).integers(0, self.accounts, count)
        return self.spread(self.ranks(count, stream))

    def ranks(self, count: int, stream: int) -> np.ndarray:
        """Return `count` Zipf ranks (int64[count]), 0 the most frequent, one for each account."""
        random = self._random(stream)
        ranks = np.empty(count, np.int64)
        filled = 0
        while filled < count:
            uniform = random.random(int((count - filled) * 1.2) + 16)
            used = _zipf(uniform, self.accounts, ZIPF_EXPONENT, ranks[filled:])
            filled = count if used >= 0 else filled - used - 1
        return ranks

    def spread(self, ranks: np.ndarray) -> np.ndarray:
        """Return the account (int64[n]) of each rank: popular ones lie all over the ledger."""
        return (ranks.astype(np.uint64) * np.uint64(_ODD) % np.uint64(self.accounts)).astype(np.int64)

    def _random(self, stream: int) -> np.random.Generator:
        """Return the generator of a stream."""
        return np.random.Generator(np.random.Philox(key=[self.seed, stream]))

    def fill(self, batch_rows: int) -> Iterator[np.ndarray]:
        """Yield the first version of all accounts in batches, in order."""
        for start in range(0, self.accounts, batch_rows):
            yield self.records(np.arange(start, min(start + batch_rows, self.accounts)), 0)

    def updates(self, calls: int, batch_rows: int, stream: int = 1) -> list[np.ndarray]:
        """Return batches of new versions of chosen accounts."""
        chosen = self.choose(calls * batch_rows, stream)
        return np.array_split(self.records(chosen, stream), calls)

    def hits(self, calls: int, batch_rows: int, stream: int = 2) -> list[np.ndarray]:
        """Return batches of keys that exist."""
        return np.array_split(self.pubkeys(self.choose(calls * batch_rows, stream)), calls)

    def misses(self, calls: int, batch_rows: int, stream: int = 3) -> list[np.ndarray]:
        """Return batches of keys that do not exist."""
        chosen = self.choose(calls * batch_rows, stream)
        return np.array_split(self.pubkeys(chosen + _ABSENT), calls)
