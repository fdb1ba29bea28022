"""SQLite, through Python's own sqlite3.

As SQLite's documentation has it for this use: a table WITHOUT ROWID, which keeps rows in the tree of their key; a
write-ahead log; many rows in one transaction; prepared statements, which the module keeps; reads through a memory map.
Many small queries are no fault in a store within the process, so a read of many keys is a query for each, in one
transaction. Integers are signed there: the fields go in and out as two's complement.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from experiments.baselines import CACHE_BYTES, blank_records, field_words, key_list

SIGNED: Final = np.dtype("<i8")
_LEVEL: Final = {"none": "OFF", "async": "NORMAL", "sync": "FULL"}
_MAKE: Final = """CREATE TABLE IF NOT EXISTS account (pubkey BLOB PRIMARY KEY, balance INTEGER, nonce INTEGER,
    staked INTEGER, last_modified INTEGER) WITHOUT ROWID"""
_GET: Final = "SELECT balance, nonce, staked, last_modified FROM account WHERE pubkey = ?"
_SCAN: Final = "SELECT balance, nonce, staked, last_modified FROM account WHERE pubkey >= ? ORDER BY pubkey LIMIT ?"
_PUT: Final = "INSERT OR REPLACE INTO account VALUES (?, ?, ?, ?, ?)"
_DELETE: Final = "DELETE FROM account WHERE pubkey = ?"
_U64: Final = (1 << 64) - 1


class SqliteStore:
    """One database with one table; see `experiments.baselines.Store`."""

    name = "sqlite"
    durabilities: Final = {
        "none": "journal_mode WAL, synchronous OFF",
        "async": "journal_mode WAL, synchronous NORMAL: the log is synced when it is brought into the database",
        "sync": "journal_mode WAL, synchronous FULL",
    }
    ordered = True

    def __init__(self, path: Path, durability: str) -> None:
        self._db = sqlite3.connect(path / "accounts.db", isolation_level=None)
        self._execute = self._db.execute
        for setting in ("journal_mode = WAL", f"synchronous = {_LEVEL[durability]}", f"mmap_size = {CACHE_BYTES}"):
            self._execute(f"PRAGMA {setting}").fetchall()
        self._execute(_MAKE)

    @classmethod
    def version(cls) -> str:
        """Return the version of the library."""
        return f"SQLite {sqlite3.sqlite_version}"

    @classmethod
    def open(cls, path: Path, accounts: int, durability: str) -> SqliteStore:
        """Open or make a database in the folder `path`."""
        return cls(path, durability)

    def load(self, batches: Iterable[np.ndarray]) -> None:
        """Insert accounts in the order of their keys, in one transaction."""
        rows = np.concatenate(list(batches))
        self.update_batch(rows[np.argsort(rows["pubkey"].copy().view("S32").ravel())])

    def get(self, key: bytes) -> Sequence[int] | None:
        """Return the fields of one account."""
        found = self._execute(_GET, (key,)).fetchone()
        return None if found is None else _unsigned(found)

    def get_batch(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return records and found of keys, all as of one moment."""
        with self._transaction():
            values = [self._execute(_GET, (key,)).fetchone() for key in key_list(keys)]
        records = blank_records(keys)
        field_words(records).view(SIGNED)[:] = [value or (0, 0, 0, 0) for value in values]
        return records, np.fromiter((value is not None for value in values), bool, len(values))

    def put(self, key: bytes, fields: Sequence[int]) -> None:
        """Write one account, in a transaction of its own."""
        self._execute(_PUT, (key, *(int(field) - ((int(field) >> 63) << 64) for field in fields)))

    def update_batch(self, records: np.ndarray) -> None:
        """Write accounts in one transaction."""
        columns = field_words(records).view(SIGNED).T.tolist()
        with self._transaction():
            self._db.executemany(_PUT, zip(key_list(records["pubkey"]), *columns, strict=True))

    def delete_batch(self, keys: np.ndarray) -> None:
        """Delete keys in one transaction."""
        with self._transaction():
            self._db.executemany(_DELETE, ((key,) for key in key_list(keys)))

    def scan(self, key: bytes, count: int) -> list[Sequence[int]]:
        """Return the fields of accounts from a key on."""
        return [_unsigned(found) for found in self._execute(_SCAN, (key, count))]

    def close(self) -> None:
        """Close the database, which brings its log into it."""
        self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit what is done inside, or take it back."""
        self._execute("BEGIN")
        try:
            yield
        except BaseException:
            self._execute("ROLLBACK")
            raise
        self._execute("COMMIT")


def _unsigned(fields: Sequence[int]) -> Sequence[int]:
    """Return fields without their sign."""
    a, b, c, d = fields
    return a & _U64, b & _U64, c & _U64, d & _U64
