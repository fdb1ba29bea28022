"""RocksDB, through rocksdict in its raw mode, which keeps the bytes as they are.

`OptimizeForPointLookup` is what RocksDB's header offers for use without iterators over ranges: block-based tables with
a hash index in each data block, Bloom filters of 10 bits a key, whole keys in the memtable's filter, a block cache.
`IncreaseParallelism` gives flushes and compactions as many threads as there are CPUs. The load builds a sorted table
file and ingests it, which RocksDB's wiki names as the fastest way in. A batch is a WriteBatch, a read of many keys a
MultiGet. Values are random, so compression is left at the library's default and finds nothing.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rocksdict import Options, Rdict, SstFileWriter, WriteBatch, WriteOptions

from experiments.baselines import BLANK, CACHE_BYTES, FIELDS, PAIR, Periodic, key_list, records_of, sorted_pairs


class RocksdbStore:
    """One RocksDB database; see `experiments.baselines.Store`."""

    name = "rocksdb"
    durabilities: Final = {
        "none": "WriteOptions.disable_wal",
        "async": "the log goes to the operating system with each write; SyncWAL every 0.1 s",
        "sync": "WriteOptions.sync",
    }
    ordered = True

    def __init__(self, path: Path, durability: str) -> None:
        self._path = path
        self._options = Options(raw_mode=True)
        self._options.create_if_missing(True)
        self._options.optimize_for_point_lookup(CACHE_BYTES >> 20)
        self._options.increase_parallelism(len(os.sched_getaffinity(0)))
        self._write = WriteOptions()
        self._write.disable_wal = durability == "none"
        self._write.sync = durability == "sync"
        self._db = Rdict(str(path), self._options)
        self._syncing = Periodic(lambda: self._db.flush_wal(True)) if durability == "async" else None

    @classmethod
    def version(cls) -> str:
        """Return the version of the package, which brings RocksDB."""
        return f"rocksdict {importlib.metadata.version('rocksdict')}"

    @classmethod
    def open(cls, path: Path, accounts: int, durability: str) -> RocksdbStore:
        """Open or make a database in the folder `path`."""
        return cls(path, durability)

    def load(self, batches: Iterable[np.ndarray]) -> None:
        """Write one sorted table file and ingest it."""
        name = str(self._path / "load.sst")
        writer = SstFileWriter(self._options)
        writer.open(name)
        for pair in sorted_pairs(batches):
            writer[pair[:32]] = pair[32:]
        writer.finish()
        self._db.ingest_external_file([name])
        os.unlink(name)

    def get(self, key: bytes) -> Sequence[int] | None:
        """Return the fields of one account."""
        value = self._db.get(key)
        return None if value is None else FIELDS.unpack(value)

    def get_batch(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return records and found of keys."""
        return records_of(keys, self._db.get(key_list(keys)))

    def put(self, key: bytes, fields: Sequence[int]) -> None:
        """Write one account."""
        self._db.put(key, FIELDS.pack(*fields), self._write)

    def update_batch(self, records: np.ndarray) -> None:
        """Write accounts in one WriteBatch."""
        batch = WriteBatch(raw_mode=True)
        for key, value in PAIR.iter_unpack(records.tobytes()):
            batch[key] = value
        self._db.write(batch, self._write)

    def delete_batch(self, keys: np.ndarray) -> None:
        """Delete keys in one WriteBatch."""
        batch = WriteBatch(raw_mode=True)
        for key in key_list(keys):
            del batch[key]
        self._db.write(batch, self._write)

    def scan(self, key: bytes, count: int) -> list[Sequence[int]]:
        """Return the fields of accounts from a key on."""
        found: list[Sequence[int]] = []
        places: Any = self._db.iter()
        places.seek(key)
        while places.valid() and len(found) < count:
            found.append(FIELDS.unpack(places.value() or BLANK))
            places.next()
        return found

    def close(self) -> None:
        """Write the memtable to a table file and close the database."""
        if self._syncing is not None:
            self._syncing.stop()
        self._db.close()
