"""LMDB (Symas), through py-lmdb.

Set up as its documentation advises: a map larger than the data will ever be, read-ahead off for random reads,
the load in one transaction with sorted keys appended. Reads take a transaction of their own, as in the
documentation's examples, or share one that is kept; the value is unpacked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import lmdb
import numpy as np

from experiments.baselines import FIELDS
from ledger import ACCOUNT

PAIR: Final = struct.Struct("32s32s")
"""Key and value: an account's bytes."""

MAP_BYTES_PER_ACCOUNT: Final = 512
MAP_BYTES_MIN: Final = 1 << 28


class LmdbStore:
    """One LMDB environment with one database; see `experiments.baselines.Store`."""

    name = "lmdb"

    def __init__(self, environment: Any) -> None:
        self._environment = environment

    @classmethod
    def open(cls, path: Path, accounts: int) -> LmdbStore:
        """Make an empty environment in the folder `path`."""
        map_bytes = max(MAP_BYTES_MIN, accounts * MAP_BYTES_PER_ACCOUNT)
        return cls(lmdb.open(str(path), map_size=map_bytes, readahead=False))

    def load(self, batches: Iterable[np.ndarray]) -> None:
        """Insert accounts in the order of their keys, appending page after page."""
        rows = np.concatenate(list(batches))
        words = np.ascontiguousarray(rows["pubkey"]).view(">u8").astype(np.uint64)
        order = np.lexsort((words[:, 3], words[:, 2], words[:, 1], words[:, 0]))
        with self._environment.begin(write=True) as transaction, transaction.cursor() as cursor:
            cursor.putmulti(PAIR.iter_unpack(rows[order].tobytes()), append=True)

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
        records = np.zeros(len(keys), ACCOUNT)
        records["pubkey"] = keys
        fields = records.view(np.uint64).reshape(len(keys), 8)[:, 4:]
        wanted = [row.tobytes() for row in np.ascontiguousarray(keys)]
        found = np.zeros(len(keys), bool)
        with self._environment.begin() as transaction:
            for i, key in enumerate(wanted):
                value = transaction.get(key)
                if value is not None:
                    fields[i] = FIELDS.unpack(value)
                    found[i] = True
        return records, found

    def update_batch(self, records: np.ndarray) -> None:
        """Write accounts in one transaction, durable when this returns."""
        with self._environment.begin(write=True) as transaction, transaction.cursor() as cursor:
            cursor.putmulti(PAIR.iter_unpack(records.tobytes()))

    def close(self) -> None:
        """Close the environment."""
        self._environment.close()
