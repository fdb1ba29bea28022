"""A Python dict, and a numpy array with a dict for an index: how fast it is to do none of the work.

The dict keeps four integers for a key, which is what most programs begin with. The array keeps records as ours does,
without checksums, versions or a log. Both promise nothing until they are closed: then the dict is pickled, and the
array saved, whole.
"""

from __future__ import annotations

import itertools
import pickle
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from experiments.baselines import FIELD_NAMES, blank_records, field_words, key_list
from ledger import ACCOUNT


class DictStore:
    """A dict of tuples; see `experiments.baselines.Store`."""

    name = "dict"
    durabilities: Final = {"none": "in memory, pickled when closed"}
    ordered = False

    def __init__(self, path: Path) -> None:
        self._path = path / "accounts.pickle"
        self._accounts: dict[bytes, Sequence[int]] = {}
        if self._path.exists():
            self._accounts = pickle.loads(self._path.read_bytes())
        self.get = self._accounts.get
        self.put = self._accounts.__setitem__

    @classmethod
    def version(cls) -> str:
        """Return the version of Python."""
        return f"dict of {platform.python_implementation()} {platform.python_version()}"

    @classmethod
    def open(cls, path: Path, accounts: int, durability: str) -> DictStore:
        """Read the dict back, or make an empty one."""
        return cls(path)

    def load(self, batches: Iterable[np.ndarray]) -> None:
        """Insert accounts batch by batch."""
        for batch in batches:
            self.update_batch(batch)

    def get_batch(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return records and found of keys."""
        values = list(map(self._accounts.get, key_list(keys)))
        records = blank_records(keys)
        field_words(records)[:] = [value or (0, 0, 0, 0) for value in values]
        return records, np.fromiter((value is not None for value in values), bool, len(values))

    def update_batch(self, records: np.ndarray) -> None:
        """Write accounts."""
        columns = (records[name].tolist() for name in FIELD_NAMES)
        self._accounts.update(zip(key_list(records["pubkey"]), zip(*columns, strict=True), strict=True))

    def delete_batch(self, keys: np.ndarray) -> None:
        """Delete keys."""
        for key in key_list(keys):
            self._accounts.pop(key, None)

    def close(self) -> None:
        """Pickle the dict."""
        self._path.write_bytes(pickle.dumps(self._accounts, pickle.HIGHEST_PROTOCOL))


class NumpyStore:
    """An array of ACCOUNT and a dict from key to row; see `experiments.baselines.Store`."""

    name = "numpy"
    durabilities: Final = {"none": "in memory, saved when closed"}
    ordered = False

    def __init__(self, path: Path, accounts: int) -> None:
        self._path = path / "accounts.npy"
        self._rows = np.load(self._path) if self._path.exists() else np.zeros(0, ACCOUNT)
        self._index = dict(zip(key_list(self._rows["pubkey"]), range(len(self._rows)), strict=True))
        self._free: list[int] = []
        self._grow(accounts)

    @classmethod
    def version(cls) -> str:
        """Return the version of numpy."""
        return f"numpy {np.__version__}"

    @classmethod
    def open(cls, path: Path, accounts: int, durability: str) -> NumpyStore:
        """Read the array back and index it, or make an empty one."""
        return cls(path, accounts)

    def load(self, batches: Iterable[np.ndarray]) -> None:
        """Insert accounts batch by batch."""
        for batch in batches:
            self.update_batch(batch)

    def get(self, key: bytes) -> Sequence[int] | None:
        """Return one account."""
        row = self._index.get(key)
        return None if row is None else self._rows[row].item()

    def get_batch(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return records and found of keys."""
        rows = np.fromiter(map(self._index.get, key_list(keys), itertools.repeat(-1)), np.int64, len(keys))
        found = rows >= 0
        records = blank_records(keys)
        records[found] = self._rows[rows[found]]
        return records, found

    def put(self, key: bytes, fields: Sequence[int]) -> None:
        """Write one account."""
        row = self._index.get(key)
        if row is None:
            row = self._index[key] = self._new_row()
        self._rows[row] = (np.frombuffer(key, np.uint8), *fields)

    def update_batch(self, records: np.ndarray) -> None:
        """Write accounts."""
        keys = key_list(records["pubkey"])
        rows = np.fromiter(map(self._index.get, keys, itertools.repeat(-1)), np.int64, len(keys))
        for place in np.flatnonzero(rows < 0).tolist():
            row = self._index.get(keys[place])
            rows[place] = self._index[keys[place]] = self._new_row() if row is None else row
        self._rows[rows] = records

    def delete_batch(self, keys: np.ndarray) -> None:
        """Delete keys; their rows are used again."""
        gone = (self._index.pop(key, None) for key in key_list(keys))
        self._free += [row for row in gone if row is not None]

    def close(self) -> None:
        """Save the rows in use."""
        np.save(self._path, self._rows[list(self._index.values())])

    def _new_row(self) -> int:
        """Return a row that is free."""
        if not self._free:
            self._grow(2 * len(self._rows) + 1)
        return self._free.pop()

    def _grow(self, size: int) -> None:
        """Make room for so many rows, if there is none."""
        have = len(self._rows)
        if size > have:
            self._rows = np.concatenate([self._rows, np.zeros(size - have, ACCOUNT)])
            self._free += range(size - 1, have - 1, -1)
