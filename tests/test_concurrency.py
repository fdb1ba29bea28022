"""Threads: readers never see half a batch, writers take turns, closing waits for nobody it must not."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from ledger import ClosedError
from ledger.layout import STATE_COMMITTED
from tests.model import Model, assert_equal, make_accounts, make_key, make_keys, reopen_options, small_options

KEYS = 4000
TOTAL = KEYS * 1000
SOME_MODES = [("none", "private"), ("msync", "shared"), ("async", "memory"), ("sync", "private")]


class Crowd:
    """Threads whose first error is raised at the end."""

    def __init__(self):
        self.threads, self.errors = [], []
        self.stop = threading.Event()

    def start(self, function, *arguments):
        def run():
            try:
                function(*arguments)
            except BaseException as error:
                self.errors.append(error)
                self.stop.set()

        thread = threading.Thread(target=run, daemon=True)
        self.threads.append(thread)
        thread.start()
        return thread

    def join(self):
        for thread in self.threads:
            thread.join(120)
            assert not thread.is_alive(), "a thread hangs"
        if self.errors:
            raise self.errors[0]


def batch(nonce, choose):
    """Return a batch of all keys: one nonce, balances that sum to TOTAL."""
    records = make_accounts(0, KEYS)
    records["nonce"] = nonce
    records["balance"] = 1000
    moved = choose.integers(0, 500, KEYS // 2, dtype=np.uint64)
    records["balance"][: KEYS // 2] += moved
    records["balance"][KEYS // 2 :] -= moved
    return records


@pytest.mark.parametrize(("kind", "threads"), [(kind, 1 + number % 2) for number, kind in enumerate(SOME_MODES)])
def test_no_reader_ever_sees_half_a_batch(book, kind, threads):
    ledger = book(small_options(*kind, capacity=8000, threads=threads, prefetch=4, log_bytes_max=4 << 20))
    choose = np.random.default_rng(1)
    ledger.update_batch(batch(1, choose))
    keys = make_keys(range(KEYS))
    crowd = Crowd()
    seen = [0, 0, 0]

    def read_batches():
        newest = 0
        while not crowd.stop.is_set():
            records, found = ledger.get_batch(keys)
            assert found.all()
            assert (1, TOTAL) == (len(set(records["nonce"].tolist())), int(records["balance"].sum()))
            assert newest <= records["nonce"][0], "time does not go back"
            newest = records["nonce"][0]
            seen[0] += 1

    def read_one(number):
        newest = 0
        while not crowd.stop.is_set():
            account = ledger.get(make_key(number))
            assert newest <= account.nonce, "time does not go back"
            newest = account.nonce
            seen[1] += 1

    def read_chunks():
        while not crowd.stop.is_set():
            for chunk in ledger.chunks(500):
                assert 1 == len(set(chunk["nonce"].tolist()))
            seen[2] += 1

    for function, arguments in (
        (read_batches, ()),
        (read_batches, ()),
        (read_one, (7,)),
        (read_one, (KEYS - 1,)),
        (read_chunks, ()),
    ):
        crowd.start(function, *arguments)
    for nonce in range(2, 24 if kind[0] in ("none", "msync") else 10):
        ledger.update_batch(batch(nonce, choose))
        assert (nonce, nonce) == (ledger.get(make_key(0)).nonce, ledger.get(make_key(KEYS - 1)).nonce), (
            "own writes are seen"
        )
    crowd.stop.set()
    crowd.join()
    assert all(seen)


@pytest.mark.parametrize("kind", SOME_MODES, ids="-".join)
def test_inserts_and_deletes_are_seen_whole(book, kind):
    ledger = book(small_options(*kind, capacity=4000))
    crowd = Crowd()

    def read():
        keys = make_keys(range(3000))
        while not crowd.stop.is_set():
            found = ledger.get_batch(keys)[1]
            count = int(found.sum())
            assert count % 100 == 0
            assert found[:count].all()
            len(ledger)

    for _ in range(2):
        crowd.start(read)
    for first in range(0, 3000, 100):
        ledger.update_batch(make_accounts(1, 100, first=first))
    for first in range(2900, -100, -100):
        ledger.delete_batch(make_keys(range(first, first + 100)))
    crowd.stop.set()
    crowd.join()
    assert 0 == len(ledger)


def test_writers_take_turns_and_nothing_is_lost(book, mode):
    ledger = book(small_options(*mode, capacity=2000))
    crowd = Crowd()
    lsns, lock = [], threading.Lock()

    def write(writer):
        for step in range(15):
            lsn = ledger.update_batch(make_accounts(step, 20, first=100 * writer), make_keys([100 * writer + step]))
            with lock:
                lsns.append(lsn)

    for writer in range(6):
        crowd.start(write, writer)
    for _ in range(3):
        ledger.snapshot()
        ledger.verify()
    crowd.join()
    model = Model()
    for writer in range(6):
        for step in range(15):
            model.update_batch(make_accounts(step, 20, first=100 * writer), make_keys([100 * writer + step]))
    assert model.state_hash() == ledger.state_hash()
    assert max(lsns) == ledger.verify().lsn
    assert mode[0] not in ("none", "msync") or sorted(lsns) == list(range(1, 91))
    ledger.__del__()
    if mode[0] != "none":
        assert model.state_hash() == book(reopen_options(*mode)).state_hash()


def test_small_batches_share_frames_and_each_keeps_its_order(book):
    ledger = book(small_options(capacity=2000))
    crowd = Crowd()

    def write(writer):
        for step in range(40):
            ledger.update_batch(make_accounts(step, 3, first=10 * writer))

    for writer in range(8):
        crowd.start(write, writer)
    crowd.join()
    stats = ledger.stats()
    assert (320, stats.committed_lsn) == (stats.batches, stats.log_frames)
    assert stats.committed_lsn <= 320
    model = Model()
    for writer in range(8):
        model.update_batch(make_accounts(39, 3, first=10 * writer))
    model.lsn = stats.committed_lsn
    assert_equal(model, ledger)


def test_a_frame_is_applied_only_when_the_one_before_it_is_committed(book, logged_mode):
    ledger = book(small_options(*logged_mode))
    apply, finish = ledger._applier.apply, ledger._log.files.finish_write
    seen = []

    def watched(rows, deletes, lsn, **more):
        seen.append((lsn - 1, int(ledger._state[STATE_COMMITTED])))
        apply(rows, deletes, lsn, **more)

    def slowly(handle):
        time.sleep(0.001)  # so that the next frame waits, its write under way
        finish(handle)

    ledger._applier.apply, ledger._log.files.finish_write = watched, slowly
    for seed in range(30):
        ledger.submit_batch(make_accounts(seed, 20), make_keys([seed]))  # a delete ends its frame
    ledger.flush()
    assert [(lsn, lsn) for lsn in range(30)] == seen


def test_closing_under_readers_and_writers_ends_in_closed_errors_alone(tmp_path, book, mode):
    for _round in range(3):
        ledger = book(small_options(*mode) if _round == 0 else reopen_options(*mode))
        ledger.update_batch(make_accounts(1, 100))
        crowd = Crowd()
        acknowledged = [0]

        def until_closed(call):
            while True:
                try:
                    call()
                except ClosedError:
                    return

        def write(ledger=ledger, acknowledged=acknowledged):
            acknowledged[0] = ledger.update_batch(make_accounts(acknowledged[0], 100))

        calls = (
            lambda ledger=ledger: ledger.get(make_key(5)),
            lambda ledger=ledger: ledger.get_batch(make_keys(range(100))),
            lambda ledger=ledger: list(ledger),
            write,
        )
        for call in calls:
            crowd.start(until_closed, call)
        ledger.close()
        crowd.join()
        again = book(reopen_options(*mode))
        assert again.recovery.clean
        assert acknowledged[0] <= again.verify().lsn
        assert [] == again.verify().faults
        again.close()


def test_a_broken_index_is_rebuilt_once_while_many_threads_ask(book):
    ledger = book(small_options("none", capacity=4000))
    ledger.update_batch(make_accounts(1, 3000))
    ledger.close()
    for shard in range(4):
        path = ledger.path / f"index_{shard:03d}.bin"
        path.write_bytes(path.read_bytes()[:4096].ljust(path.stat().st_size, b"\0"))
    ledger = book(reopen_options("none"))
    keys = make_keys(range(3000))
    crowd = Crowd()
    barrier = threading.Barrier(6)

    def ask(single):
        barrier.wait()
        if single:
            assert all(ledger.get(make_key(number)) is not None for number in range(0, 3000, 50))
        else:
            assert ledger.get_batch(keys)[1].all()

    def write():
        barrier.wait()
        ledger.update_batch(make_accounts(1, 100, first=3000))

    for number in range(5):
        crowd.start(ask, number % 2 == 0)
    crowd.start(write)
    crowd.join()
    assert [] == ledger.verify().faults
    assert 3100 == len(ledger)


def test_the_same_frames_on_two_threads_full_of_duplicates_equal_the_model(book):
    ledger, model = book(small_options("none", threads=2, capacity=3000)), Model()
    choose = np.random.default_rng(5)
    for step in range(25):
        records = make_accounts(step, 8)[choose.integers(0, 8, 4096)]
        records["balance"] = choose.integers(0, 1 << 40, 4096)
        model.update_batch(records)
        ledger.update_batch(records)
        assert model.state_hash() == ledger.state_hash()
        report = ledger.verify()
        assert (model.supply, []) == (report.supply, report.faults)
