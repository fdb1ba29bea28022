"""Batches: their sizes, what does not fit, sums, and keys that come twice."""

from __future__ import annotations

import numpy as np
import pytest

from ledger import ACCOUNT, BatchTooLargeError, CapacityError, GeometricLedger
from tests.model import (
    Model,
    assert_equal,
    filled,
    make_accounts,
    make_key,
    make_keys,
    one_account,
    reopen_options,
    small_options,
)


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


@pytest.mark.slow
@pytest.mark.parametrize("keys", [1, 300, 300_000])
def test_a_million_rows_give_one_state_on_one_thread_and_on_sixteen(tmp_path, keys):
    states, rows = set(), 1_000_000
    accounts, deletes = make_accounts(1, keys), make_keys(range(0, keys, 50))
    for run, threads in enumerate((1, 2, 16, 16)):
        choose, balances = np.random.default_rng(keys), np.zeros(keys, np.uint64)
        options = small_options(
            "none", threads=threads, hash_key=b"k" * 32, capacity=400_000, batch_rows_max=rows + keys
        )  # fmt: skip
        with GeometricLedger.open(tmp_path / str(run), options) as ledger:
            for batch in range(2):
                chosen = choose.integers(0, keys, rows)
                records = accounts[chosen]
                records["balance"], records["nonce"] = choose.integers(0, 1 << 40, rows), np.arange(rows)
                balances[chosen] = records["balance"]  # of equal indices the last one counts
                balances[::50] *= np.uint64(batch % 2)
                ledger.update_batch(records, None if batch % 2 else deletes)
                assert int(balances.sum()) == ledger.verify().supply
            assert ledger.verify().ok
            states.add((ledger.state_hash(), *(ledger.index_view(shard).slot.tobytes() for shard in range(4))))
    assert 1 == len(states)


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
