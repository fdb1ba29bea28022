"""The adapters of other stores: each does what a dict does, keeps it over a close, and says what it cannot do."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from experiments import baselines
from experiments.baselines import CLASSES, STORES, blank_records, field_words
from experiments.errors import NotApplicableError, ParameterError

ACCOUNTS = 400
CASES = [(name, durability) for name in STORES for durability in baselines.find(name).durabilities]
cases = pytest.mark.parametrize(("name", "durability"), CASES, ids=["-".join(case) for case in CASES])


class Twin:
    """What every adapter has to do, by a dict of bytes to four integers."""

    def __init__(self):
        self.accounts = {}

    def update_batch(self, records):
        for record in records:
            self.accounts[record["pubkey"].tobytes()] = record.item()[1:]

    def delete_batch(self, keys):
        for key in keys:
            self.accounts.pop(key.tobytes(), None)

    def put(self, key, fields):
        self.accounts[key] = tuple(fields)

    def scan(self, key, count):
        return [self.accounts[found] for found in sorted(self.accounts) if found >= key][:count]

    def get_batch(self, keys):
        found = [self.accounts.get(key.tobytes()) for key in keys]
        records = blank_records(keys)
        field_words(records)[:] = [fields or (0, 0, 0, 0) for fields in found]
        return records, np.array([fields is not None for fields in found], bool)


def records_at(choose, keys, count):
    """Return records of chosen keys, some of them twice, with fields from all of u64."""
    records = blank_records(keys[choose.integers(0, len(keys), count)])
    field_words(records)[:] = choose.integers(0, 1 << 64, (count, 4), dtype=np.uint64)
    return records


def assert_equal(twin, store, keys):
    records, found = store.get_batch(keys)
    expected, there = twin.get_batch(keys)
    assert np.array_equal(there, found) and np.array_equal(expected, records)
    for key in (key.tobytes() for key in keys[::7]):
        got = store.get(key)
        assert twin.accounts.get(key) == (None if got is None else tuple(got[-4:]))
    if store.ordered:
        for key in (key.tobytes() for key in keys[::50]):
            assert twin.scan(key, 5) == list(map(tuple, store.scan(key, 5)))


@cases
def test_every_store_does_what_a_dict_does_and_has_it_again_when_it_is_opened(tmp_path, name, durability):
    choose = np.random.default_rng(7)
    keys = choose.integers(0, 256, (ACCOUNTS, 32), dtype=np.uint8)
    keys[:, 4:] = 0  # zeros at the end belong to a key
    keys[:3] = 0
    keys[1, 31], keys[2, 0] = 1, 255
    keys = np.unique(keys, axis=0)
    kind, twin = baselines.find(name, durability), Twin()
    store = kind.open(tmp_path, ACCOUNTS, durability)
    first = np.concatenate([records_at(choose, keys[i : i + 1], 1) for i in choose.permutation(len(keys) // 2)])
    store.load(np.array_split(first, 3))
    twin.update_batch(first)
    assert_equal(twin, store, keys)
    for _ in range(2):
        for size in (1, 5, 60):
            records, gone = records_at(choose, keys, size), keys[choose.integers(0, len(keys), size // 3)]
            for one in (store, twin):
                one.update_batch(records)
                one.delete_batch(gone)
            for record in records_at(choose, keys, 3):
                for one in (store, twin):
                    one.put(record["pubkey"].tobytes(), record.item()[1:])
        assert_equal(twin, store, keys)
        store.close()
        store = kind.open(tmp_path, ACCOUNTS, durability)
        assert_equal(twin, store, keys)
    store.close()


def test_a_store_or_class_that_is_misspelt_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(ParameterError, match="did you mean rocksdb"):
        baselines.find("rockdb")
    with pytest.raises(ParameterError, match="did you mean sync"):
        baselines.find("sqlite", "synch")
    with pytest.raises(NotApplicableError, match="dict has no class sync, only none"):
        baselines.find("dict", "sync")
    assert all(set(baselines.find(name).durabilities) <= set(CLASSES) for name in STORES)


def test_a_store_whose_package_is_missing_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rocksdict", None)
    monkeypatch.delitem(sys.modules, "experiments.baselines.rocksdb_store", raising=False)
    with pytest.raises(NotApplicableError, match=r"rocksdict.*pip install '\.\[baselines\]'"):
        baselines.find("rocksdb")


def test_an_error_of_a_periodic_sync_is_raised_when_it_is_stopped(monkeypatch):
    monkeypatch.setattr(baselines, "SYNC_INTERVAL_S", 0.001)
    periodic = baselines.Periodic(lambda: 1 // 0)
    periodic._thread.join()
    with pytest.raises(ZeroDivisionError):
        periodic.stop()
