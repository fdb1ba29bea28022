"""What callers give and get: opening, inputs, limits, and the views for researchers."""

from __future__ import annotations

import os

import numpy as np
import pytest

from ledger import (
    ACCOUNT,
    Account,
    BatchTooLargeError,
    CapacityError,
    ClosedError,
    GeometricLedger,
    InvalidInputError,
    LedgerNotFoundError,
    Options,
    OptionsError,
    ReadOnlyError,
)
from ledger.layout import RECORD
from tests.model import (
    Model,
    accounts_of,
    assert_equal,
    make_accounts,
    make_key,
    make_keys,
    one_account,
    reopen_options,
    small_options,
)

ODD_KEYS = [b"\x01" * 31 + b"\x00", bytes(32), b"\x00" + b"x" * 31, b"\x00" * 31 + b"\x01", b"\xff" * 32]


def filled(book, mode=("none", "private"), n=20, **changes):
    """Return a ledger with `n` accounts and the model of it."""
    ledger, model = book(small_options(*mode, **changes)), Model()
    model.update_batch(make_accounts(1, n))
    ledger.update_batch(make_accounts(1, n))
    return ledger, model


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


# ---------------------------------------------------------------- keys and records
@pytest.mark.parametrize("threads", [1, 2])
def test_keys_keep_all_their_bytes(book, mode, threads):
    ledger = book(small_options(*mode, threads=threads))
    accounts = [Account(key, row, 1, 2, 3) for row, key in enumerate(ODD_KEYS)]
    ledger.update_batch(accounts)
    assert accounts == [ledger.get(key) for key in ODD_KEYS]
    assert sorted(accounts) == sorted(account for chunk in ledger for account in accounts_of(chunk))
    as_array = np.frombuffer(b"".join(ODD_KEYS), np.uint8).reshape(-1, 32)
    as_views = [memoryview(key) for key in ODD_KEYS]
    as_bytearrays = tuple(bytearray(key) for key in ODD_KEYS)
    for keys in (ODD_KEYS, as_array, as_views, as_bytearrays):
        records, found = ledger.get_batch(keys)
        assert accounts == accounts_of(records)
        assert found.all()
    assert accounts[1] == ledger.get(as_array[1]) == ledger.get(bytearray(32)) == ledger.get(memoryview(bytes(32)))
    ledger.close()
    ledger = book(reopen_options(*mode))
    assert accounts == [ledger.get(key) for key in ODD_KEYS]
    ledger.delete_batch([bytes(32)])
    assert ledger.get(bytes(32)) is None
    assert accounts[0] == ledger.get(ODD_KEYS[0])


def test_arrays_of_every_layout_mean_the_same(book):
    ledger = book()
    records = make_accounts(3, 40)
    wide = np.zeros((40, 3), ACCOUNT)
    wide[:, 1] = records
    swapped = records.astype(ACCOUNT.newbyteorder(">"))
    shifted = np.frombuffer(bytearray(b"x" + records.tobytes()), np.uint8)[1:].view(ACCOUNT)
    frozen = records.copy()
    frozen.flags.writeable = False
    forms = [records, wide[:, 1], records[::-1], swapped, shifted, frozen, records.view(np.recarray)]
    forms += [accounts_of(records), tuple(accounts_of(records))]
    for form in forms:
        ledger.delete_batch(records["pubkey"])
        ledger.update_batch(form)
        found = ledger.get_batch(records["pubkey"])[0]
        assert accounts_of(records) == accounts_of(found)
    keys = np.ascontiguousarray(records["pubkey"])
    wide_keys = np.zeros((40, 64), np.uint8)
    wide_keys[:, 16:48] = keys
    for form in (keys[::-1][::-1], np.asfortranarray(keys), wide_keys[:, 16:48], records["pubkey"]):
        assert accounts_of(records) == accounts_of(ledger.get_batch(form)[0])
    assert accounts_of(records)[0] == accounts_of(ledger.get_batch(keys[:1])[0])[0]
    one = Account(make_key(500), 1, 2, 3, 4)
    ledger.update_batch(one)
    assert one == ledger.get(make_key(500))


WRONG_KEYS = {
    "31 bytes": [bytes(31)],
    "33 bytes": [bytes(32), bytes(33)],
    "empty": [b""],
    "text": ["k" * 32],
    "None": [None],
    "a number": [7],
    "one key": bytes(32),
    "one text": "k" * 32,
    "nothing": None,
    "int": 5,
    "float": 5.0,
    "a generator": (key for key in [bytes(32)]),
    "31 columns": np.zeros((2, 31), np.uint8),
    "flat": np.zeros(32, np.uint8),
    "cube": np.zeros((1, 2, 32), np.uint8),
    "u4": np.zeros((2, 8), np.uint32),
    "u8": np.zeros((2, 4), np.uint64),
    "i1": np.zeros((2, 32), np.int8),
    "i8": np.zeros((2, 32), np.int64),
    "f8": np.zeros((2, 32)),
    "f1": np.full((1, 4), np.nan),
    "bool": np.zeros((2, 32), bool),
    "S32": np.array([b"k" * 32]),
    "V32": np.zeros(2, "V32"),
    "O": np.array([b"k" * 32], object),
    "U": np.array(["k" * 32]),
}


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_wrong_keys_are_refused_and_nothing_is_changed(book, name):
    ledger, model = filled(book)
    keys = WRONG_KEYS[name]
    calls = [lambda: ledger.get_batch(keys), lambda: ledger.delete_batch(keys)]
    calls += [] if keys is None else [lambda: ledger.update_batch(make_accounts(9, 3), keys)]
    for call in calls:
        with pytest.raises(InvalidInputError) as caught:
            call()
        assert caught.value.field
    assert_equal(model, ledger)


@pytest.mark.parametrize(
    "key", [bytes(31), bytes(33), b"", "k" * 32, None, 5, [bytes(32)], np.zeros(32), np.zeros(31, "u1")]
)
def test_a_wrong_single_key_is_refused(book, key):
    with pytest.raises(InvalidInputError) as caught:
        book().get(key)
    assert "pubkey" == caught.value.field


def account(**changes):
    return Account(**{"pubkey": bytes(32), "balance": 1, "nonce": 1, "staked": 1, "last_modified": 1} | changes)


@pytest.mark.parametrize("field", ["balance", "nonce", "staked", "last_modified"])
@pytest.mark.parametrize("value", [-1, 2**64, 1.0, float("nan"), True, None, "1", b"1", np.float64(1)], ids=repr)
def test_a_wrong_value_is_named_by_row_and_field(book, field, value):
    ledger, model = filled(book)
    with pytest.raises(InvalidInputError) as caught:
        ledger.update_batch([account(), account(), account(**{field: value})])
    assert (2, field) == (caught.value.row, caught.value.field)
    assert_equal(model, ledger)


def structured(**changes):
    fields = {"pubkey": ("u1", (32,)), "balance": "<u8", "nonce": "<u8", "staked": "<u8", "last_modified": "<u8"}
    fields = {name: kind for name, kind in (fields | changes).items() if kind}
    return np.zeros(2, [(n, *k) if isinstance(k, tuple) else (n, k) for n, k in fields.items()])


WRONG_RECORDS = {
    "no structure": np.zeros((2, 8), np.uint64),
    "bytes": b"x" * 64,
    "text": "x",
    "None": None,
    "number": 3,
    "floats": np.zeros(2),
    "missing": structured(staked=None),
    "extra": structured(more="<u8"),
    "float field": structured(balance="<f8"),
    "signed field": structured(nonce="<i8"),
    "short key": structured(pubkey=("u1", (31,))),
    "narrow": structured(staked="<u4"),
    "two dimensions": np.zeros((2, 2), ACCOUNT),
    "no dimension": np.zeros((), ACCOUNT),
    "tuples of four": [(bytes(32), 1, 2, 3)],
    "lists": [[bytes(32), 1, 2, 3, 4]],
    "padded": np.zeros(2, np.dtype([*ACCOUNT.descr, ("", "V8")])),
    "other order": np.zeros(2, [ACCOUNT.descr[i] for i in (1, 0, 2, 3, 4)]),
    "a dict": {bytes(32): 1},
    "a key of 31": [account(pubkey=bytes(31))],
    "a text key": [account(pubkey="k" * 32)],
}


@pytest.mark.parametrize("name", WRONG_RECORDS)
def test_wrong_records_are_refused_and_nothing_is_changed(book, name):
    ledger, model = filled(book)
    with pytest.raises(InvalidInputError) as caught:
        ledger.update_batch(WRONG_RECORDS[name])
    assert caught.value.field
    assert_equal(model, ledger)


# ---------------------------------------------------------------- sizes of batches
def test_an_empty_batch_has_no_effect(book, mode):
    ledger, model = filled(book, mode)
    frames = ledger.stats().log_frames
    empty = np.zeros(0, ACCOUNT)
    for records, deletes in ((empty, None), ([], []), (empty, np.zeros((0, 32), np.uint8)), ((), ())):
        assert model.lsn == ledger.update_batch(records, deletes)
    for keys in ([], (), np.zeros((0, 32), np.uint8)):
        assert model.lsn == ledger.delete_batch(keys)
        records, found = ledger.get_batch(keys)
        assert (0, ACCOUNT, 0, np.bool_) == (len(records), records.dtype, len(found), found.dtype)
    assert frames == ledger.stats().log_frames
    assert_equal(model, ledger)


def test_an_empty_ledger_answers_everything(book, mode):
    ledger, model = book(small_options(*mode)), Model()
    for _ in range(2):
        assert_equal(model, ledger)
        assert [] == list(ledger)
        assert ledger.get(bytes(32)) is None
        assert 0 == ledger.snapshot()
        assert [] == list(ledger.log_frames())
        assert 0 == len(ledger.record_view(0))
        assert not ledger.index_view(0).occupied.any()
        ledger.close()
        ledger = book(reopen_options(*mode))


def test_a_batch_above_the_limit_is_refused_and_one_at_the_limit_is_not(book, mode):
    ledger, model = filled(book, mode, batch_rows_max=30)
    with pytest.raises(BatchTooLargeError):
        ledger.update_batch(make_accounts(2, 31))
    with pytest.raises(BatchTooLargeError):
        ledger.update_batch(make_accounts(2, 20), make_keys(range(11)))
    model.update_batch(make_accounts(2, 20), make_keys(range(10)))
    ledger.update_batch(make_accounts(2, 20), make_keys(range(10)))
    assert_equal(model, ledger)


def test_a_batch_that_no_log_holds_is_refused_and_the_next_one_goes_on(book, logged_mode):
    ledger, model = filled(book, logged_mode, capacity=8000, log_bytes_max=128 * 1024)
    with pytest.raises(BatchTooLargeError):
        ledger.update_batch(make_accounts(2, 5000))
    model.update_batch(make_accounts(3, 1000))
    assert model.lsn == ledger.update_batch(make_accounts(3, 1000))
    assert_equal(model, ledger)


def test_a_full_ledger_refuses_new_keys_and_takes_known_ones(book, mode):
    ledger, model = book(small_options(*mode, capacity=40, shards=1)), Model()
    slots = ledger._control.slots(0)
    model.update_batch(make_accounts(1, slots - 1))
    ledger.update_batch(make_accounts(1, slots - 1))
    with pytest.raises(CapacityError) as caught:
        ledger.update_batch(make_accounts(2, 5, first=slots - 3), make_keys([0]))
    assert (0, 1, 3) == (caught.value.shard, caught.value.free, caught.value.needed)
    assert_equal(model, ledger)
    last = np.concatenate([make_accounts(seed, slots) for seed in (3, 4, 5)])
    model.update_batch(last, make_keys([0]))
    assert model.lsn == ledger.update_batch(last, make_keys([0]))
    with pytest.raises(CapacityError):
        ledger.update_batch(make_accounts(2, 1, first=slots))
    model.update_batch(make_accounts(6, 1))
    ledger.update_batch(make_accounts(6, 1))
    assert_equal(model, ledger)
    ledger.close()
    assert_equal(model, book(reopen_options(*mode)))


def test_a_full_log_takes_a_snapshot_and_goes_on(book, logged_mode):
    ledger, model = filled(book, logged_mode, log_bytes_max=128 * 1024)
    for seed in range(100):
        model.update_batch(make_accounts(seed, 20))
        assert model.lsn == ledger.update_batch(make_accounts(seed, 20))
    stats = ledger.stats()
    assert stats.checkpoints >= 2
    assert stats.checkpoint_lsn > 0
    assert_equal(model, ledger)


# ---------------------------------------------------------------- sums and duplicates
def test_the_supply_is_exact_above_64_bits(book, mode):
    ledger, model = book(small_options(*mode)), Model()
    for number in range(5):
        model.update_batch(one_account(number, 2**64 - 1))
        ledger.update_batch(one_account(number, 2**64 - 1))
    assert 5 * (2**64 - 1) == ledger.stats().supply == ledger.verify().supply
    for number, balance in ((0, 0), (1, 1), (1, 2**63), (2, 2**64 - 2)):
        model.update_batch(one_account(number, balance))
        ledger.update_batch(one_account(number, balance))
        report = ledger.verify()
        assert (model.supply, []) == (report.supply, report.faults)
    model.update_batch(one_account(9, 7), make_keys([0, 1, 3, 3, 9]))
    ledger.update_batch(one_account(9, 7), make_keys([0, 1, 3, 3, 9]))
    assert_equal(model, ledger)
    ledger.__del__()
    if mode[0] != "none":
        assert_equal(model, book(reopen_options(*mode)))


@pytest.mark.parametrize("threads", [1, 2])
def test_of_a_key_that_comes_twice_the_last_row_wins(book, mode, threads):
    ledger, model = book(small_options(*mode, threads=threads, capacity=5000)), Model()
    choose = np.random.default_rng(threads)
    for _ in range(15):
        records = make_accounts(int(choose.integers(1 << 30)), 50)[choose.integers(0, 50, 4000)]
        records["nonce"] = choose.integers(0, 1 << 60, 4000)
        deletes = make_keys(choose.integers(0, 70, 20))
        model.update_batch(records, deletes)
        ledger.update_batch(records, deletes)
        assert model.state_hash() == ledger.state_hash()
    assert_equal(model, ledger)


def test_a_hundred_thousand_rows_of_one_key_give_one_result_for_any_number_of_threads(tmp_path):
    records = np.repeat(one_account(2, 5), 100_000)
    records["balance"] = np.arange(100_000) * 7
    hashes = set()
    for threads in (1, 2):
        options = small_options("none", threads=threads, hash_key=b"k" * 32)
        with GeometricLedger.open(tmp_path / str(threads), options) as ledger:
            for run in range(8):
                if run % 2:
                    ledger.delete_batch(make_keys([2]))
                ledger.update_batch(records)
                assert (99_999 * 7, 1) == (ledger.get(make_key(2)).balance, len(ledger))
                assert (99_999 * 7, []) == (ledger.verify().supply, ledger.verify().faults)
                hashes.add(ledger.state_hash())
    assert 1 == len(hashes)


def test_equal_batches_make_equal_files_for_any_number_of_threads(tmp_path):
    images = []
    for threads in (1, 2):
        options = small_options("none", threads=threads, hash_key=b"k" * 32, capacity=20_000)
        with GeometricLedger.open(tmp_path / str(threads), options) as ledger:
            for seed in range(4):
                ledger.update_batch(make_accounts(seed, 10_000, first=2_000 * seed), make_keys(range(0, 3000, 7)))
            images.append([ledger.index_view(shard).slot.tolist() for shard in range(4)])
            images[-1].append([ledger.record_view(shard)["pubkey"].tobytes() for shard in range(4)])
    assert images[0] == images[1]


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


def test_a_get_that_outlives_its_ledger_says_so(book, tmp_path):
    ledger = GeometricLedger.open(tmp_path / "short", small_options())
    ledger.update_batch(make_accounts(1, 3))
    get = ledger.get
    assert get(make_key(1)) is not None
    del ledger
    with pytest.raises(ClosedError):
        get(make_key(1))
