"""LMDB (Symas), through py-lmdb.

Set up as its documentation advises: a map larger than the data will ever be, read-ahead off for random reads,
the load in one transaction with sorted keys appended. Reads take a transaction of their own, as in the
documentation's examples, or share one that is kept; the value is unpacked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import lmdb
import numpy as np

from experiments.baselines import FIELDS, PAIR, key_list, records_of, sorted_pairs

MAP_BYTES_PER_ACCOUNT: Final = 512
MAP_BYTES_MIN: Final = 1 << 28


class LmdbStore:
    """One LMDB environment with one database; see `experiments.baselines.Store`."""

    name = "lmdb"
    durabilities: Final = {"none": "MDB_NOSYNC", "sync": "each commit is synced, which is the default"}
    ordered = True

    def __init__(self, environment: Any) -> None:
        self._environment = environment

    @classmethod
    def version(cls) -> str:
        """Return the versions of library and package."""
        return f"LMDB {'.'.join(map(str, lmdb.version()))}, py-lmdb {lmdb.__version__}"

    @classmethod
    def open(cls, path: Path, accounts: int, durability: str = "sync") -> LmdbStore:
        """Open or make an environment in the folder `path`."""
        map_bytes = max(MAP_BYTES_MIN, accounts * MAP_BYTES_PER_ACCOUNT)
        return cls(lmdb.open(str(path), map_size=map_bytes, readahead=False, sync=durability == "sync"))

    def load(self, batches: Iterable[np.ndarray]) -> None:
        """Insert accounts in the order of their keys, appending page after page."""
        pairs = ((pair[:32], pair[32:]) for pair in sorted_pairs(batches))
        with self._environment.begin(write=True) as transaction, transaction.cursor() as cursor:
            cursor.putmulti(pairs, append=True)

    def get(self, key: bytes) -> tuple[int, int, int, int] | None:
        """Return the fields of one account, in a read transaction of its own."""
        with self._environment.begin() as transaction:
            value = transaction.get(key)
        return None if value is None else FIELDS.unpack(value)

    def get_each(self, keys: Sequence[bytes]) -> int:
        """Get key after key, each in a read transaction of its own."""
        begin, unpack = self._environment.begin, FIELDS.unpack
        found = 0
        for key in keys:
            with begin() as transaction:
                value = transaction.get(key)
            if value is not None:
                balance, nonce, staked, modified = unpack(value)  # noqa: RUF059
                found += 1
        return found

    def get_each_kept(self, keys: Sequence[bytes]) -> int:
        """Get key after key in one read transaction: all as of one moment, which holds old pages back meanwhile."""
        unpack = FIELDS.unpack
        found = 0
        with self._environment.begin() as transaction:
            get = transaction.get
            for key in keys:
                value = get(key)
                if value is not None:
                    balance, nonce, staked, modified = unpack(value)  # noqa: RUF059
                    found += 1
        return found

    def get_batch(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return records and found of keys, all as of one moment."""
        with self._environment.begin() as transaction:
            return records_of(keys, list(map(transaction.get, key_list(keys))))

    def put(self, key: bytes, fields: Sequence[int]) -> None:
        """Write one account, in a transaction of its own."""
        with self._environment.begin(write=True) as transaction:
            transaction.put(key, FIELDS.pack(*fields))

    def update_batch(self, records: np.ndarray) -> None:
        """Write accounts in one transaction."""
        with self._environment.begin(write=True) as transaction, transaction.cursor() as cursor:
            cursor.putmulti(PAIR.iter_unpack(records.tobytes()))

    def delete_batch(self, keys: np.ndarray) -> None:
        """Delete keys in one transaction."""
        with self._environment.begin(write=True) as transaction:
            for key in key_list(keys):
                transaction.delete(key)

    def scan(self, key: bytes, count: int) -> list[Sequence[int]]:
        """Return the fields of accounts from a key on."""
        with self._environment.begin() as transaction, transaction.cursor() as cursor:
            places = cursor.iternext(keys=False) if cursor.set_range(key) else ()
            return [FIELDS.unpack(value) for value, _ in zip(places, range(count), strict=False)]

    def close(self) -> None:
        """Close the environment."""
        self._environment.close()
