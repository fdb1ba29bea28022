"""What callers give and get: opening, options, and the views for researchers."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from ledger import ClosedError, GeometricLedger, LedgerNotFoundError, LockedError, Options, OptionsError, ReadOnlyError
from ledger.layout import RECORD
from tests.model import (
    Model,
    accounts_of,
    assert_equal,
    filled,
    make_accounts,
    make_key,
    make_keys,
    one_account,
    reopen_options,
    small_options,
)


def everything(folder, but=""):
    """Return name, bytes and times of every file and folder, `but` one name left out."""
    paths = [folder, *sorted(folder.rglob("*"))] if not but else [p for p in sorted(folder.rglob("*")) if p.name != but]
    return [
        (str(p), p.read_bytes() if p.is_file() else None, p.stat().st_mtime_ns, p.stat().st_ctime_ns) for p in paths
    ]


# ---------------------------------------------------------------- opening
def test_a_missing_ledger_is_made_only_when_asked_for(tmp_path):
    for arguments in ({"create": False}, {"read_only": True}):
        with pytest.raises(LedgerNotFoundError):
            GeometricLedger.open(tmp_path / "none", small_options(), **arguments)
        assert not (tmp_path / "none").exists()


def test_a_ledger_is_a_context_and_closes_once(tmp_path, mode):
    with GeometricLedger.open(tmp_path, small_options(*mode)) as ledger:
        ledger.update_batch(make_accounts(1, 3))
    ledger.close()
    assert "closed" in repr(ledger)
    calls = [
        lambda: ledger.get(make_key(1)), lambda: ledger.get_batch([make_key(1)]), lambda: len(ledger), ledger.stats,
        lambda: ledger.update_batch(make_accounts(1, 1)), ledger.snapshot, ledger.verify, lambda: list(ledger),
        ledger.state_hash, lambda: ledger.index_view(0), lambda: ledger.record_view(0),
        lambda: list(ledger.log_frames()),
        lambda: make_key(1) in ledger, lambda: ledger.delete_batch([make_key(1)]), lambda: ledger.advise("willneed"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ClosedError):
            call()


def test_a_clean_close_is_seen_and_a_forgotten_handle_is_not_one(book, mode):
    ledger, model = filled(book, mode)
    ledger.close()
    assert {".clean_shutdown"} <= set(os.listdir(ledger.path))
    ledger = book(reopen_options(*mode))
    assert (True, 0, model.lsn) == (ledger.recovery.clean, ledger.recovery.frames, ledger.recovery.lsn)
    assert ".clean_shutdown" not in os.listdir(ledger.path)
    assert_equal(model, ledger)


def test_a_handle_that_was_closed_and_dropped_gives_memory_and_files_back_at_once(tmp_path, mode):
    gc.disable()
    try:
        with GeometricLedger.open(tmp_path / "book", small_options(*mode)) as ledger:
            ledger.update_batch(make_accounts(1, 20))
            ledger.snapshot()
        del ledger
        assert f"{tmp_path}/book/" not in Path("/proc/self/maps").read_text()
        assert not [fd for fd in Path("/proc/self/fd").iterdir() if f"{tmp_path}/book/" in os.path.realpath(fd)]
    finally:
        gc.enable()


def test_what_does_not_fit_the_ledger_is_refused_by_name_and_changes_nothing(book):
    ledger, _ = filled(book)
    ledger.close()
    before = everything(ledger.path, but="lock")
    other_hash = {"hash_name": "mine", "hash_function": lambda keys, key: np.zeros((len(keys), 3), np.uint32)}
    for field, changes in (
        ("shards", {"shards": 8}), ("capacity", {"capacity": 300}), ("index_load", {"index_load": 0.9}),
        ("hash_key", {"hash_key": b"k" * 32}), ("hash_name", other_hash),
    ):  # fmt: skip
        with pytest.raises(OptionsError) as caught:
            book(reopen_options(**changes))
        assert field == caught.value.field
        assert before == everything(ledger.path, but="lock")


def test_a_relative_path_stays_the_same_when_the_process_moves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ledger = GeometricLedger.open("é x", small_options())
    monkeypatch.chdir("/")
    ledger.update_batch(make_accounts(1, 3))
    ledger.snapshot()
    ledger.close()
    assert (tmp_path / "é x" / ".clean_shutdown").exists()


def test_read_only_writes_nothing_at_all(book, mode):
    for killed in (False, True):
        ledger, model = book(reopen_options(*mode) if killed else small_options(*mode)), Model()
        model.update_batch(make_accounts(1, 20))
        ledger.update_batch(make_accounts(1, 20))
        model.lsn = ledger.verify().lsn
        if killed:
            ledger.snapshot()
            if mode[0] != "none":
                model.update_batch(make_accounts(3, 5))
                ledger.update_batch(make_accounts(3, 5))
            path = ledger.path
            ledger.__del__()
        else:
            path = ledger.path
            ledger.close()
        before = everything(path)
        for way in ("private", "memory"):
            reader = book(reopen_options("none", way), read_only=True)
            assert_equal(model, reader)
            refused = (
                lambda: reader.update_batch(make_accounts(1, 1)), lambda: reader.delete_batch([make_key(1)]),  # noqa: B023
                reader.snapshot,
            )  # fmt: skip
            for call in refused:
                with pytest.raises(ReadOnlyError):
                    call()
            reader.index_view(0)
            list(reader.log_frames())
            reader.close()
            assert before == everything(path)


# ---------------------------------------------------------------- options
@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("capacity", [0, -1, 1.5, float("nan"), True, "10"]),
        ("shards", [0, 3, -4, 8192, 2.0, True]),
        ("index_load", [0.49, 0.96, float("nan"), float("inf"), "0.5", True]),
        ("threads", [0, -1, 65, 1.0, True]),
        ("prefetch", [-1, 65, None, 1.0, True, float("nan")]),
        ("batch_rows_max", [0, -1, 1 << 24, None, True]),
        ("sync_interval_s", [0, -1, float("nan"), float("inf"), None, True]),
        ("log_segment_bytes", [0, 4096, 65537, 65536.0, None, True]),
        ("log_bytes_max", [0, 64 * 1024, None, True]),
        ("durability", ["fsync", None, True, 1, ["sync"]]),
        ("storage", ["mmap", None, 1]),
        ("hugepages", ["on", None, True]),
        ("hash_key", [b"short", "k" * 32, bytearray(32), 1]),
        ("hash_name", ["mine", "", "x" * 25]),
    ],
)
def test_every_setting_has_bounds_and_a_wrong_value_is_named(field, values):
    for value in values:
        with pytest.raises(OptionsError) as caught:
            Options(**{field: value})
        assert field == caught.value.field, value


def test_settings_that_do_not_fit_each_other_are_refused():
    for durability, storage in (("sync", "shared"), ("async", "shared"), ("msync", "private"), ("msync", "memory")):
        with pytest.raises(OptionsError) as caught:
            Options(durability=durability, storage=storage)
        assert "storage" == caught.value.field


@pytest.mark.parametrize("shards", [1, 16])
def test_a_ledger_of_one_account_works(book, mode, shards):
    ledger, model = book(small_options(*mode, capacity=1, shards=shards)), Model()
    for balance in (1, 2, 3):
        model.update_batch(one_account(0, balance))
        assert model.lsn == ledger.update_batch(one_account(0, balance))
    assert_equal(model, ledger)
    ledger.close()
    assert_equal(model, book(reopen_options(*mode)))


# ---------------------------------------------------------------- looking inside
def test_chunks_hold_each_live_account_once(book):
    ledger, _ = filled(book, n=200)
    ledger.delete_batch(make_keys(range(0, 200, 3)))
    wanted = sorted(a for number, a in enumerate(accounts_of(make_accounts(1, 200))) if number % 3)
    for slots in (1, 7, 1000):
        chunks = list(ledger.chunks(slots))
        assert all(1 <= len(chunk) <= slots for chunk in chunks)
        assert wanted == sorted(a for chunk in chunks for a in accounts_of(chunk))
    for slots in (0, -1):
        with pytest.raises(OptionsError):
            next(ledger.chunks(slots))


def test_the_index_view_places_every_slot_once_and_tells_its_distance(book):
    ledger, _ = filled(book, n=250, index_load=0.95)
    for shard in range(4):
        view = ledger.index_view(shard)
        used = len(ledger.record_view(shard))
        assert list(range(used)) == sorted(view.slot[view.occupied].tolist())
        assert (view.distance[~view.occupied] == -1).all()
        assert (view.slot[~view.occupied] == -1).all()
        assert (view.distance[view.occupied] >= 0).all()
        positions = len(view.occupied)
        for at in np.flatnonzero(view.distance > 0):
            behind = [(at - step) % positions for step in range(1, view.distance[at] + 1)]
            assert view.occupied[behind].all(), "a probe ends at an empty position"
    for shard in (-1, 4):
        for call in (ledger.index_view, ledger.record_view):
            with pytest.raises(OptionsError) as caught:
                call(shard)
            assert "shard" == caught.value.field


def test_the_record_view_shows_both_cells_and_cannot_be_written(book):
    ledger, model = filled(book)
    ledger.update_batch(make_accounts(2, 10))
    records = np.concatenate([ledger.record_view(shard) for shard in range(4)])
    assert RECORD == records.dtype
    assert model.slots == {row["pubkey"].tobytes() for row in records}
    newest = np.maximum(records["a"]["lsn"], records["b"]["lsn"])
    assert [1] * 10 + [2] * 10 == sorted(newest.tolist())
    with pytest.raises(ValueError, match="read-only"):
        ledger.record_view(0)["pubkey"][:] = 1


def test_the_log_view_holds_the_batches_since_the_last_snapshot(book, logged_mode):
    ledger = book(small_options(*logged_mode))
    ledger.update_batch(make_accounts(1, 3))
    ledger.snapshot()
    assert [] == list(ledger.log_frames())
    ledger.update_batch(make_accounts(2, 3), make_keys([1, 2]))
    ledger.update_batch(make_accounts(3, 4))
    frames = list(ledger.log_frames())
    assert [2, 3] == [frame.lsn for frame in frames]
    assert make_accounts(2, 3).tobytes() == frames[0].rows.tobytes()
    assert make_keys([1, 2]).tobytes() == frames[0].deletes.tobytes()
    assert make_accounts(3, 4).tobytes() == frames[1].rows.tobytes()
    assert [1, 1] == [frame.batches for frame in frames]


def test_stats_count_what_was_done_and_are_plain_values(book):
    ledger, _ = filled(book, ("sync", "private"))
    ledger.get_batch(make_keys(range(10)))
    stats = ledger.stats()
    assert (1, 20, 1, 1, 1) == (stats.batches, stats.rows, stats.committed_lsn, stats.durable_lsn, stats.log_frames)
    assert (20, 256, 4, 20) == (stats.live, stats.capacity, stats.shards, sum(stats.slots_used))
    assert 30 == stats.lookups == sum(stats.probe_distance)
    assert stats.as_dict()["recovery"]["clean"] in (True, False)
    with pytest.raises(OptionsError):
        ledger.advise("sometimes")


# ---------------------------------------------------------------- a hash of one's own
def all_collide(keys, hash_key):
    """Give every key the same words."""
    return np.ones((len(keys), 3), np.uint32)


def last_bits(keys, hash_key):
    """Give a poor hash: few different words."""
    words = keys[:, [3, 7, 11]].astype(np.uint32)
    return words & np.array([3, 1, 1], np.uint32)


@pytest.mark.parametrize("hash_function", [all_collide, last_bits])
@pytest.mark.parametrize("durability", ["none", "sync"])
def test_a_hash_that_collides_is_slow_and_right(book, hash_function, durability):
    own = {"hash_function": hash_function, "hash_name": "poor", "capacity": 400, "shards": 1}
    ledger, model = book(small_options(durability, **own)), Model()
    for seed in range(3):
        model.update_batch(make_accounts(seed, 60, first=30 * seed), make_keys(range(0, 200, 9)))
        ledger.update_batch(make_accounts(seed, 60, first=30 * seed), make_keys(range(0, 200, 9)))
    hits = ledger.get_batch([b"y" * 32, make_key(33)])[1].tolist()
    assert [False, make_key(33) in model.accounts] == hits
    batch_only = [key for key in model.slots if key in model.accounts]
    records, found = ledger.get_batch(batch_only)
    assert found.all()
    assert [model.accounts[key] for key in batch_only] == accounts_of(records)
    assert [] == ledger.verify().faults
    for key in [*list(model.slots)[:20], b"y" * 32]:
        assert model.accounts.get(key) == ledger.get(key) == ledger.get(memoryview(key))
    assert (model.state_hash(), len(model.accounts)) == (ledger.state_hash(), len(ledger))
    ledger.close()
    ledger = book(reopen_options(durability, hash_function=hash_function, hash_name="poor"))
    assert model.state_hash() == ledger.state_hash()
    ledger.close()
    (ledger.path / "index_000.bin").unlink()
    with pytest.raises(OptionsError):
        book(reopen_options(durability))
    ledger = book(reopen_options(durability, hash_function=hash_function, hash_name="poor"))
    assert [0] == ledger.recovery.indexes_rebuilt
    assert model.accounts.get(make_key(33)) == ledger.get(make_key(33))


def test_a_get_keeps_its_ledger_open_until_it_has_answered(tmp_path):
    with GeometricLedger.open(tmp_path, small_options()) as ledger:
        ledger.update_batch(make_accounts(1, 3))
    found = [GeometricLedger.open(tmp_path, reopen_options()).get(make_key(number)) for number in range(4)]
    assert accounts_of(make_accounts(1, 3)) == found[:3]
    assert found[3] is None
    get = GeometricLedger.open(tmp_path, reopen_options()).get
    assert found[0] == get(make_key(0))
    with pytest.raises(LockedError):
        GeometricLedger.open(tmp_path, reopen_options())
    get.__self__.close()
    with pytest.raises(ClosedError):
        get(make_key(0))
