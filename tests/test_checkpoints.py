"""Checkpoints while writers go on, what bounds the log, and batches that are handed over."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from ledger import (
    CapacityError,
    ClosedError,
    CorruptLogError,
    FailStopError,
    GeometricLedger,
    InvalidInputError,
    Options,
    OptionsError,
    ReadOnlyError,
)
from ledger.engine import checkpoint
from tests.crash.canaries import totals_left_behind
from tests.faults import FaultyFiles
from tests.model import LOGGED_MODES, Model, assert_equal, make_accounts, make_keys, reopen_options, small_options

logged = pytest.mark.parametrize("kind", LOGGED_MODES, ids="-".join)


class HeldFiles(FaultyFiles):
    """Hold back writes to records until told to go on."""

    def __init__(self):
        super().__init__()
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.holding = False

    def pwrite(self, fd, data, offset):
        if self.holding and "shard_" in self._names.get(fd, ""):
            self.reached.set()
            assert self.go_on.wait(60)
        super().pwrite(fd, data, offset)


def wait_until(condition, seconds=30.0):
    stop = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < stop, "it does not come to pass"
        time.sleep(0.002)


def write(ledger, model, seeds, rows=40):
    for seed in seeds:
        batch = make_accounts(seed, rows, first=seed % 50), make_keys([seed % 60])
        ledger.update_batch(*batch)
        model.update_batch(*batch)


@logged
def test_writers_go_on_while_a_checkpoint_is_written(tmp_path, kind):
    files, model = HeldFiles(), Model()
    ledger = GeometricLedger.open(tmp_path, small_options(*kind), files=files)
    write(ledger, model, range(5))
    files.holding = True
    taken = []
    thread = threading.Thread(target=lambda: taken.append(ledger.snapshot()), daemon=True)
    thread.start()
    assert files.reached.wait(60)
    write(ledger, model, range(5, 12))
    assert ledger.stats().checkpoint_running
    assert (0, []) == (ledger.stats().checkpoint_lsn, taken)
    files.holding = False
    files.go_on.set()
    thread.join(60)
    assert [5] == taken
    assert (5, False) == (ledger.stats().checkpoint_lsn, ledger.stats().checkpoint_running)
    ledger.__del__()  # as after a kill
    with GeometricLedger.open(tmp_path, reopen_options(*kind)) as ledger:
        assert (5, 12, 7, False) == (
            ledger.recovery.checkpoint_lsn, ledger.recovery.lsn, ledger.recovery.frames, ledger.recovery.recounted,
        )  # fmt: skip
        assert [] == ledger.recovery.indexes_rebuilt
        assert_equal(model, ledger)


@logged
@pytest.mark.parametrize("last", ["snapshot", "close"])
def test_a_writer_killed_in_a_checkpoint_leaves_totals_that_need_no_recount(tmp_path, kind, last):
    files, model = HeldFiles(), Model()
    ledger = GeometricLedger.open(tmp_path, small_options(*kind), files=files)
    write(ledger, model, range(4))
    ledger.snapshot()
    write(ledger, model, range(4, 9))
    files.fail("pwrite", path="control.bin", skip=1)  # totals are written; the block that names the checkpoint is not
    with pytest.raises(FailStopError):
        getattr(ledger, last)()
    ledger.__del__()
    with GeometricLedger.open(tmp_path, reopen_options(*kind)) as ledger:
        assert (4, 9, False, []) == (
            ledger.recovery.checkpoint_lsn, ledger.recovery.lsn, ledger.recovery.recounted,
            ledger.recovery.indexes_rebuilt,
        )  # fmt: skip
        assert_equal(model, ledger)


def test_an_image_ahead_of_all_totals_is_an_error_and_salvage_keeps_it(tmp_path):
    files, model = HeldFiles(), Model()
    with totals_left_behind():
        ledger = GeometricLedger.open(tmp_path, small_options(), files=files)
        write(ledger, model, range(4))
        ledger.snapshot()
        write(ledger, model, range(4, 9))
        files.fail("pwrite", path="control.bin")
        with pytest.raises(FailStopError):
            ledger.snapshot()
        ledger.__del__()
    for read_only in (True, False):
        with pytest.raises(CorruptLogError, match="ahead of all totals"):
            GeometricLedger.open(tmp_path, reopen_options(), read_only=read_only)
    with GeometricLedger.open(tmp_path, reopen_options(), salvage=True) as ledger:
        assert ledger.recovery.salvaged
        assert_equal(model, ledger)


def test_the_length_of_the_log_asks_for_a_checkpoint_and_segments_are_used_again(tmp_path):
    options = {"checkpoint_log_bytes": 64 * 1024, "log_bytes_max": 1 << 20}
    model = Model()
    with GeometricLedger.open(tmp_path, small_options(**options)) as ledger:
        write(ledger, model, range(200))
        wait_until(lambda: not ledger.stats().checkpoint_running and ledger.stats().log_redo_bytes < 200 * 1024)
        stats = ledger.stats()
        assert stats.checkpoints >= 2
        assert stats.checkpoint_lsn > 0
        assert stats.log_bytes == 200 * 4096
        held = sum(path.stat().st_size for path in (tmp_path / "log").iterdir())
        assert held <= 1 << 20
        assert_equal(model, ledger)
    with GeometricLedger.open(tmp_path, reopen_options()) as ledger:
        assert_equal(model, ledger)


def test_time_asks_for_a_checkpoint_if_something_was_committed(tmp_path):
    with GeometricLedger.open(tmp_path, small_options(checkpoint_interval_s=0.01)) as ledger:
        time.sleep(0.1)
        assert 0 == ledger.stats().checkpoints
        ledger.update_batch(make_accounts(1, 10))
        wait_until(lambda: ledger.stats().checkpoint_lsn == 1)
        time.sleep(0.1)
        assert 1 == ledger.stats().checkpoints


def test_writers_wait_for_the_checkpoint_rather_than_let_the_log_pass_its_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "LIMIT_BYTES_MIN", 128 * 1024)
    options = small_options(recovery_target_s=0.002, log_bytes_max=1 << 20)
    most = 0
    with GeometricLedger.open(tmp_path, options) as ledger:
        bound = ledger.stats().log_redo_bytes_max
        assert 128 * 1024 <= bound <= 256 * 1024
        for seed in range(300):
            ledger.update_batch(make_accounts(seed, 40))
            most = max(most, ledger._checkpointer.log_bytes)
        assert most <= bound + 4096
        assert ledger.stats().checkpoints >= 300 * 4096 // bound


def test_recovery_takes_no_more_than_the_log_since_the_last_checkpoint_and_keeps_its_rate(tmp_path):
    options = {"log_bytes_max": 64 << 20, "log_segment_bytes": 8 << 20, "batch_rows_max": 1 << 17}
    ledger = GeometricLedger.open(tmp_path, small_options(capacity=100_000, **options))
    ledger.update_batch(make_accounts(1, 50_000))
    ledger.snapshot()
    ledger.update_batch(make_accounts(2, 90_000))
    digest = ledger.state_hash()
    ledger.__del__()
    report = None
    for target in (0.5, None):
        ledger = GeometricLedger.open(tmp_path, reopen_options(recovery_target_s=target, **options))
        report = report or ledger.recovery
        assert (1, 2, 1) == (ledger.recovery.checkpoint_lsn, ledger.recovery.lsn, ledger.recovery.frames)
        assert ledger.stats().log_redo_bytes == ledger.recovery.bytes_read == report.bytes_read > 5_000_000
        assert digest == ledger.state_hash()
        if target:
            assert ledger.stats().log_redo_bytes_max == int(target * report.redo_bytes_per_s)
            assert report.redo_bytes_per_s == pytest.approx(report.bytes_read / report.seconds["redo"], rel=0.5)
        ledger.__del__()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("checkpoint_log_bytes", 1), ("checkpoint_interval_s", 0), ("recovery_target_s", -1.0),
        ("recovery_target_s", "1"),
    ],
)  # fmt: skip
def test_settings_of_checkpoints_are_checked(name, value):
    with pytest.raises(OptionsError) as caught:
        Options(**{name: value})
    assert name == caught.value.field


# ---------------------------------------------------------------- batches that are handed over
@pytest.mark.parametrize("kind", [("none", "private"), *LOGGED_MODES], ids="-".join)
def test_submitted_batches_are_committed_in_order_and_small_ones_share_frames(tmp_path, kind):
    model = Model()
    with GeometricLedger.open(tmp_path, small_options(*kind)) as ledger:
        batch = make_accounts(0, 5)
        futures = []
        for seed in range(300):
            batch[:] = make_accounts(seed, 5, first=seed % 40)  # may be changed at once
            futures.append(ledger.submit_batch(batch, make_keys([seed % 30])))
            model.update_batch(batch, make_keys([seed % 30]))
        newest = ledger.flush()
        assert all(future.done() for future in futures)
        lsns = [future.result() for future in futures]
        assert sorted(lsns) == lsns
        assert newest == lsns[-1] == ledger.stats().committed_lsn
        assert 300 == ledger.stats().batches
        assert model.state_hash() == ledger.state_hash()
        upserts = [ledger.submit_batch(make_accounts(seed, 5, first=seed % 40)) for seed in range(300)]
        assert ledger.flush() - newest == len({future.result() for future in upserts})
        if kind[0] == "sync":
            assert ledger.flush() - newest < 200, "batches that wait together share a frame"
        assert ledger.submit_batch(make_accounts(0, 0)).result() == ledger.flush()


@pytest.mark.parametrize(("rows", "deletes"), [(2000, ()), (1, (7,))], ids=["too large to share", "with a delete"])
def test_a_batch_that_goes_alone_keeps_its_place_between_small_ones(tmp_path, rows, deletes):
    batches = [(make_accounts(1, 5), ()), (np.repeat(make_accounts(2, 1), rows), deletes), (make_accounts(3, 5), ())]
    model, futures = Model(), []

    def submit(*_):
        if not futures:
            futures.extend(ledger.submit_batch(records, make_keys(keys)) for records, keys in batches)

    for records, keys in batches:
        model.update_batch(records, make_keys(keys))
    with GeometricLedger.open(tmp_path, small_options()) as ledger:
        ledger.verify(submit)  # calls it in the committer's thread, which takes nothing meanwhile
        ledger.flush()
        lsns = [future.result() for future in futures]
        assert sorted(set(lsns)) == lsns
        assert model.state_hash() == ledger.state_hash()


def test_a_submitted_batch_that_is_refused_does_not_hold_back_the_next(tmp_path):
    with GeometricLedger.open(tmp_path, small_options(capacity=16)) as ledger:
        fits = ledger.submit_batch(make_accounts(1, 10))
        too_many = ledger.submit_batch(make_accounts(1, 500))
        after = ledger.submit_batch(make_accounts(2, 10))
        assert (1, 2) == (fits.result(), after.result())
        assert isinstance(too_many.exception(), CapacityError)
        with pytest.raises(InvalidInputError):
            ledger.submit_batch(np.zeros(3))
        assert 10 == len(ledger)
    with pytest.raises(ClosedError):
        ledger.submit_batch(make_accounts(1, 1))
    with GeometricLedger.open(tmp_path, read_only=True) as ledger:
        for call in (lambda: ledger.submit_batch(make_accounts(1, 1)), ledger.flush):
            with pytest.raises(ReadOnlyError):
                call()


def test_of_submitted_batches_that_wait_together_each_is_refused_or_not_by_itself(tmp_path):
    with GeometricLedger.open(tmp_path, small_options(capacity=40, shards=1)) as ledger:
        with ledger._gate:  # the first frame cannot be applied meanwhile, so that the others wait together
            futures = [ledger.submit_batch(make_accounts(seed, 10, first=10 * seed)) for seed in range(8)]
            futures.append(ledger.submit_batch(make_accounts(9, 40)))
            assert not any(future.cancel() for future in futures)
        refused = [isinstance(future.exception(), CapacityError) for future in futures]
        assert [False] * 4 + [True] * 4 + [False] == refused
        model = Model()
        for seed in range(4):
            model.update_batch(make_accounts(seed, 10, first=10 * seed))
        model.update_batch(make_accounts(9, 40))
        assert model.state_hash() == ledger.state_hash()
        ledger.submit_batch(make_accounts(9, 1)).result()


def test_after_a_failed_write_every_future_has_the_error(tmp_path):
    files = FaultyFiles()
    ledger = GeometricLedger.open(tmp_path, small_options(), files=files)
    files.fail("finish_write", skip=3, times=None)
    futures = []
    with pytest.raises(FailStopError):
        for seed in range(10_000):
            futures.append(ledger.submit_batch(make_accounts(seed, 300)))
    done = [future for future in futures if future.exception(60) is None]
    assert done == futures[: len(done)]
    assert all(isinstance(future.exception(), FailStopError) for future in futures[len(done) :])
    with pytest.raises(FailStopError):
        ledger.flush()
    ledger.__del__()
    with GeometricLedger.open(tmp_path, reopen_options()) as ledger:
        assert ledger.verify().lsn >= (done[-1].result() if done else 0)


def test_close_commits_what_was_submitted(tmp_path):
    ledger = GeometricLedger.open(tmp_path, small_options())
    futures = [ledger.submit_batch(make_accounts(seed, 50)) for seed in range(50)]
    ledger.close()
    assert futures[-1].result() >= 1
    with GeometricLedger.open(tmp_path, reopen_options()) as ledger:
        assert ledger.verify().lsn == futures[-1].result()


def test_submit_waits_while_too_many_rows_are_under_way(tmp_path, monkeypatch):
    from ledger.engine import commit_logged

    monkeypatch.setattr(commit_logged, "SUBMITTED_ROWS_MAX", 100)
    with GeometricLedger.open(tmp_path, small_options()) as ledger:
        futures = []
        for seed in range(60):
            futures.append(ledger.submit_batch(make_accounts(seed, 50)))
            assert sum(not future.done() for future in futures) <= 4
        ledger.flush()
