"""DuckDB, through its Python package and Arrow.

DuckDB is made for queries over columns; its documentation asks for bulk loads and large batches and warns of many
small transactions, which single puts and gets are all the same. So arrays come in as Arrow tables; the load goes into
a bare table and the primary key, which makes its index, follows; a batch is one INSERT OR REPLACE, a read of many
keys one join.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa

from experiments.baselines import FIELD_NAMES, blank_records
from experiments.errors import NotApplicableError

_FSYNC: Final = {"none": "NONE", "sync": "STANDARD"}
_COLUMNS: Final = ", ".join(FIELD_NAMES)
_MAKE: Final = f"CREATE TABLE account (pubkey BLOB, {', '.join(f'{name} UBIGINT' for name in FIELD_NAMES)})"
_KEY: Final = "ALTER TABLE account ADD PRIMARY KEY (pubkey)"
_GET: Final = f"SELECT {_COLUMNS} FROM account WHERE pubkey = ?"


class DuckdbStore:
    """One database with one table; see `experiments.baselines.Store`."""

    name = "duckdb"
    durabilities: Final = {
        "none": "fsync_mode NONE, which DuckDB has from 2.0 on",
        "sync": "its log is synced at each commit",
    }
    ordered = False

    def __init__(self, path: Path, durability: str) -> None:
        try:
            self._db = duckdb.connect(str(path / "accounts.db"))
            if durability == "none":
                self._db.execute(f"SET fsync_mode = '{_FSYNC[durability]}'")
        except duckdb.CatalogException:
            words = f"DuckDB {duckdb.__version__} syncs at each commit and cannot be told not to"
            raise NotApplicableError(words, hint="take 2.0 or newer") from None
        self._execute = self._db.execute
        if not self._execute("FROM duckdb_tables()").fetchall():
            self._execute(_MAKE)
            self._execute(_KEY)

    @classmethod
    def version(cls) -> str:
        """Return the version of the package."""
        return f"DuckDB {duckdb.__version__}"

    @classmethod
    def open(cls, path: Path, accounts: int, durability: str) -> DuckdbStore:
        """Open or make a database in the folder `path`."""
        return cls(path, durability)

    def load(self, batches: Iterable[np.ndarray]) -> None:
        """Insert accounts into a table without a key, then make the key."""
        self._execute("DROP TABLE account")
        self._execute(_MAKE)
        for batch in batches:
            self._with(_table(batch), "INSERT INTO account FROM given")
        self._execute(_KEY)

    def get(self, key: bytes) -> Sequence[int] | None:
        """Return the fields of one account."""
        found = self._execute(_GET, (key,)).fetchall()
        return found[0] if found else None

    def get_batch(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return records and found of keys."""
        given = pa.table({"row": np.arange(len(keys)), "pubkey": _binary(keys)})
        answer = self._with(given, f"SELECT row, {_COLUMNS} FROM given JOIN account USING (pubkey)").fetchnumpy()
        records, found = blank_records(keys), np.zeros(len(keys), bool)
        found[answer["row"]] = True
        for name in FIELD_NAMES:
            records[name][answer["row"]] = answer[name]
        return records, found

    def put(self, key: bytes, fields: Sequence[int]) -> None:
        """Write one account, in a transaction of its own."""
        self._execute("INSERT OR REPLACE INTO account VALUES (?, ?, ?, ?, ?)", (key, *map(int, fields)))

    def update_batch(self, records: np.ndarray) -> None:
        """Write accounts in one statement, which must not meet a key twice: of those the last row is taken."""
        keys = np.ascontiguousarray(records["pubkey"]).view("V32").ravel()
        last = dict(zip(keys.tolist(), range(len(records)), strict=True))
        chosen = records if len(last) == len(records) else records[list(last.values())]
        self._with(_table(chosen), "INSERT OR REPLACE INTO account FROM given")

    def delete_batch(self, keys: np.ndarray) -> None:
        """Delete keys in one statement."""
        self._with(pa.table({"pubkey": _binary(keys)}), "DELETE FROM account WHERE pubkey IN (FROM given)")

    def close(self) -> None:
        """Close the database, which brings its log into it."""
        self._db.close()

    def _with(self, given: Any, statement: str) -> Any:
        """Run a statement that reads the Arrow table as ``given``."""
        self._db.register("given", given)
        return self._execute(statement)


def _binary(keys: np.ndarray) -> Any:
    """Return keys (uint8[n, 32]) as an Arrow array, without a copy of the bytes."""
    ends = np.arange(0, 32 * len(keys) + 1, 32, dtype=np.int32)
    return pa.Array.from_buffers(
        pa.binary(), len(keys), [None, pa.py_buffer(ends), pa.py_buffer(np.ascontiguousarray(keys))]
    )


def _table(records: np.ndarray) -> Any:
    """Return records as an Arrow table."""
    columns = {name: np.ascontiguousarray(records[name]) for name in FIELD_NAMES}
    return pa.table({"pubkey": _binary(records["pubkey"]), **columns})
