"""Rivals: one store at a time does the work that all do, in batches and call by call, is closed, opened and checked.

The store is closed and opened again after each kind of writing, so that what a load or single writes left to be done
later is not counted as work of the batches. At the end all accounts are compared with what was written last.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from experiments import baselines
from experiments.baselines import Store
from experiments.measure import Usage
from experiments.trial import Operation, Outcome, Trial
from experiments.trials import common
from experiments.workload import Workload

CHECK_ROWS: Final = 16_384
CHECK_GETS: Final = 100
WARM_UP: Final = 9
PUTS: Final = 1
UPDATES: Final = 2
"""Each kind of writing has its stream of accounts, and writes the version of that number."""


def measure(trial: Trial) -> Outcome:
    """Load, put, update, read and open again, and compare the accounts with what was written."""
    store, durability = trial.factors["store"], trial.factors["durability"]
    kind = baselines.find(store, durability)
    bench = Bench(kind, trial)
    bench.load_all()
    bench.put()
    bench.read()
    bench.update()
    state = bench.check()
    facts = {"durability_by": kind.durabilities[durability], "version": kind.version()}
    return Outcome(bench.operations, state, facts)


class Bench:
    """One store, what was measured of it, and what it has to hold."""

    def __init__(self, kind: type[Store], trial: Trial) -> None:
        self.chosen = trial.workload
        self.batch_rows: int = trial.factors["batch_rows"]
        self.work = Workload(trial.factors["accounts"], trial.seed, self.chosen["keys"])
        self.expected = self.work.records(np.arange(self.work.accounts), 0)
        self.operations: list[Operation] = []
        self._path = trial.scratch / "store"
        self._path.mkdir()
        self._open = lambda: kind.open(self._path, self.work.accounts, trial.factors["durability"])
        self.store = self._open()

    def _keep(self, operation: Operation, **numbers: Any) -> Operation:
        """Keep what was measured."""
        operation.numbers |= numbers
        self.operations.append(operation)
        return operation

    def _writes(self, calls: int, rows: int, stream: int) -> list[np.ndarray]:
        """Return batches of new versions of chosen accounts, which are expected from now on."""
        chosen = self.work.choose(calls * rows, stream)
        records = self.work.records(chosen, stream)
        self.expected[chosen] = records
        return np.array_split(records, calls)

    def reopen(self, after: str) -> int:
        """Close the store, open it again and read one account; return the bytes that the closing wrote."""
        _, closed = common.timed("close", self.store.close)
        size = disk_bytes(self._path)
        self._keep(closed, after=after, disk_bytes_per_account=size / self.work.accounts)
        _write_out(self._path)
        key = self.work.pubkeys(np.arange(1)).tobytes()
        start = time.perf_counter_ns()
        self.store = self._open()
        opened = time.perf_counter_ns()
        found = self.store.get(key)
        answered = time.perf_counter_ns()
        if found is None:
            raise AssertionError("an account was gone when the store was opened again")
        numbers = {"after": after, "open_ms": (opened - start) / 1e6, "first_get_ms": (answered - opened) / 1e6}
        self._keep(Operation("open", numbers | {"ready_ms": (answered - start) / 1e6}))
        return int(closed.numbers["bytes_written"])

    # ------------------------------------------------------------ what is measured
    def load_all(self) -> None:
        """Insert all accounts."""
        batches = list(self.work.fill(common.FILL_ROWS))
        _, loaded = common.timed("load", lambda: self.store.load(batches))
        rows = self.work.accounts
        self._keep(loaded, rows=rows, rows_per_s=rows / loaded.numbers["seconds"])
        self.reopen("load")

    def put(self) -> None:
        """Write account by account."""
        records = self._writes(self.chosen["puts"], 1, PUTS)
        pairs = [(record["pubkey"].tobytes(), record.item()[1:]) for (record,) in records]
        self._keep(common.phase("put", lambda pair: self.store.put(*pair), pairs, len(pairs)))
        self.reopen("put")

    def read(self) -> None:
        """Read account by account, then in batches."""
        calls, rows = self.chosen["get_calls"], self.batch_rows
        keys = baselines.key_list(self.work.pubkeys(self.work.choose(self.chosen["gets"], 3)))
        batches = self.work.hits(calls, rows, 4)
        common.check_found("get_batch", self.store.get_batch, batches, expected=True)
        common.check_found("get_batch", self.store.get_batch, self.work.misses(2, rows), expected=False)
        self._keep(common.phase("get", self.store.get, keys, len(keys)))
        self._keep(common.phase("get_batch", self.store.get_batch, batches, calls * rows))

    def update(self) -> None:
        """Write in batches; what the closing writes belongs to them."""
        calls, rows = self.chosen["update_calls"], self.batch_rows
        for batch in self._writes(self.chosen["warm_up_calls"], rows, WARM_UP):
            self.store.update_batch(batch)
        self.reopen("warm up")
        before, size = Usage.now(), disk_bytes(self._path)
        updated = self._keep(
            common.phase("update_batch", self.store.update_batch, self._writes(calls, rows, UPDATES), calls * rows)
        )
        self.reopen("update")
        written = Usage.now().since(before)["bytes_written"]
        growth = disk_bytes(self._path) - size
        updated.numbers |= {
            "settled_bytes_per_row": written / (calls * rows), "growth_bytes_per_row": growth / (calls * rows),
        }  # fmt: skip

    def check(self) -> str:
        """Compare all accounts with what was written last, close the store, and return the digest of the accounts."""
        digest = hashlib.blake2b(digest_size=16)
        for first in range(0, len(self.expected), CHECK_ROWS):
            wanted = self.expected[first : first + CHECK_ROWS]
            records, found = self.store.get_batch(wanted["pubkey"])
            same = found & (records == wanted)
            if not same.all():
                raise AssertionError(f"{int((~same).sum())} of {len(same)} accounts are not what was written last")
            digest.update(records.tobytes())
        for record in self.expected[:CHECK_GETS]:
            got: Sequence[int] | None = self.store.get(record["pubkey"].tobytes())
            if got is None or tuple(got[-4:]) != record.item()[1:]:
                raise AssertionError("get and get_batch read different accounts")
        self.store.close()
        return digest.hexdigest()


def _write_out(path: Path) -> None:
    """Have a folder's files written out: only a page that is clean counts as written when it is changed."""
    for folder, _, names in os.walk(path):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                os.fsync(file.fileno())


def disk_bytes(path: Path) -> int:
    """Return what a folder takes on disk: blocks, not lengths, since some files have holes."""
    sizes = (os.lstat(os.path.join(folder, name)).st_blocks for folder, _, names in os.walk(path) for name in names)
    return 512 * sum(sizes)
