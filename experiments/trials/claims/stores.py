"""Claims about other stores: single durable writes, and filling."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from experiments.errors import NotApplicableError
from experiments.trial import Outcome, Trial
from experiments.trials import common
from experiments.trials.claims import compare
from experiments.trials.turns import Part, take_turns, timed, whole
from ledger import GeometricLedger

Pair = tuple[bytes, bytes]


def single_writes(trial: Trial) -> Outcome:
    """Write small pairs one by one, each durable before the next, to each store in turn; ours writes records."""
    chosen, folder = trial.workload, trial.scratch
    with contextlib.ExitStack() as open_stores:
        ledger = open_stores.enter_context(
            GeometricLedger.open(folder / "ledger", common.options(trial, durability="sync"))
        )
        environment = open_stores.enter_context(_lmdb(folder / "lmdb"))
        parts: dict[str, Part] = {
            "ours": timed(ledger.update_batch),
            "LMDB": timed(lambda pair: _put(environment, [pair])),
            "RocksDB": timed(open_stores.enter_context(_rocksdb(folder / "rocksdb"))),
            "SQLite, write-ahead log": timed(open_stores.enter_context(_sqlite(folder / "wal", "wal"))),
            "SQLite, rollback journal": timed(open_stores.enter_context(_sqlite(folder / "journal", "delete"))),
        }
        pairs = _pairs(trial, chosen["writes"] * chosen["rounds"], 24, 150)
        rows = common.workload(trial).updates(chosen["writes"] * chosen["rounds"], 1)
        rounds = [
            {name: (rows if name == "ours" else pairs)[at : at + chosen["writes"]] for name in parts}
            for at in range(0, len(pairs), chosen["writes"])
        ]
        operations = compare(take_turns(parts, rounds, 1), "rate_over_lmdb", dict.fromkeys(parts, "LMDB"))
    for item in operations:
        item.numbers["us_per_write"] = item.numbers["seconds"] * 1e6 / item.numbers["calls"]
        item.numbers["time_over_lmdb"] = 1 / item.numbers["rate_over_lmdb"]
    return Outcome(operations)


def lmdb_fill(trial: Trial) -> Outcome:
    """Fill LMDB in random order, a transaction for each pair and no sync, or all in one: in memory and on the disk."""
    chosen = trial.workload
    with contextlib.ExitStack() as open_stores:
        memory = open_stores.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
        parts: dict[str, Part] = {}
        for place, folder in (("tmpfs", Path(memory)), ("disk", trial.scratch)):
            single = open_stores.enter_context(_lmdb(folder / "single", sync=False, writemap=True))
            single_put = timed(lambda pair, environment=single: _put(environment, [pair]))
            bulk = open_stores.enter_context(_lmdb(folder / "bulk", sync=False, writemap=True))
            parts[f"{place}, a transaction each"] = single_put
            parts[f"{place}, one transaction"] = whole(lambda pairs, environment=bulk: _put(environment, pairs))
        pairs = _pairs(trial, chosen["entries"], 16, 100)
        step = chosen["entries"] // chosen["rounds"]
        rounds = [dict.fromkeys(parts, pairs[at : at + step]) for at in range(0, step * chosen["rounds"], step)]
        operations = take_turns(parts, rounds, 1)
    for item in operations:
        item.numbers["us_per_entry"] = item.numbers["seconds"] * 1e6 / item.numbers["rows"]
    return Outcome(operations)


def sqlite_inserts(trial: Trial) -> Outcome:
    """Insert rows into SQLite in one transaction, and in one for each."""
    chosen = trial.workload
    rows = [(number, float(number), "some text") for number in range(chosen["inserts"])]
    with contextlib.ExitStack() as open_stores:
        parts: dict[str, Part] = {}
        for journal in ("delete", "wal"):
            store = open_stores.enter_context(
                contextlib.closing(sqlite3.connect(trial.scratch / journal, isolation_level=None))
            )
            store.execute(f"PRAGMA journal_mode = {journal}")
            store.execute("PRAGMA synchronous = FULL")
            store.execute("CREATE TABLE things (number INTEGER, size REAL, name TEXT)")

            def insert(row: tuple[Any, ...], store: sqlite3.Connection = store) -> None:
                store.execute("INSERT INTO things VALUES (?, ?, ?)", row)

            def insert_all(rows: Sequence[tuple[Any, ...]], store: sqlite3.Connection = store) -> None:
                store.execute("BEGIN")
                store.executemany("INSERT INTO things VALUES (?, ?, ?)", rows)
                store.execute("COMMIT")

            parts |= {f"inserts, {journal}": whole(insert_all), f"transactions, {journal}": timed(insert)}
        arguments = {name: rows if name.startswith("inserts") else rows[: chosen["singles"]] for name in parts}
        operations = take_turns(parts, [arguments] * chosen["rounds"], 1)
    return Outcome(operations)


def _pairs(trial: Trial, count: int, key_bytes: int, value_bytes: int) -> list[Pair]:
    """Return random keys and values."""
    data = np.random.default_rng(trial.seed).bytes(count * (key_bytes + value_bytes))
    size = key_bytes + value_bytes
    return [(data[at : at + key_bytes], data[at + key_bytes : at + size]) for at in range(0, len(data), size)]


@contextlib.contextmanager
def _lmdb(path: Path, **options: Any) -> Iterator[lmdb.Environment]:
    """Open an LMDB environment; without options each transaction is durable."""
    environment = lmdb.open(str(path), map_size=1 << 30, **options)
    try:
        yield environment
    finally:
        environment.close()


def _put(environment: lmdb.Environment, pairs: Sequence[Pair]) -> None:
    """Write pairs in one transaction."""
    with environment.begin(write=True) as transaction:
        for key, value in pairs:
            transaction.put(key, value)


@contextlib.contextmanager
def _rocksdb(path: Path) -> Iterator[Any]:
    """Open RocksDB and give a function that puts one pair durably."""
    try:
        import rocksdict
    except ImportError:
        raise NotApplicableError("rocksdict is not installed: pip install '.[baselines]' brings it") from None
    store = rocksdict.Rdict(str(path), rocksdict.Options(raw_mode=True))
    write = rocksdict.WriteOptions()
    write.sync = True
    try:
        yield lambda pair: store.put(*pair, write)
    finally:
        store.close()


@contextlib.contextmanager
def _sqlite(path: Path, journal: str) -> Iterator[Any]:
    """Open SQLite with a journal and give a function that puts one pair durably."""
    store = sqlite3.connect(path, isolation_level=None)
    store.execute(f"PRAGMA journal_mode = {journal}")
    store.execute("PRAGMA synchronous = FULL")
    store.execute("CREATE TABLE pairs (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
    try:
        yield lambda pair: store.execute("INSERT OR REPLACE INTO pairs VALUES (?, ?)", pair)
    finally:
        store.close()
