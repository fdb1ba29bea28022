"""A failing disk: the writer stops, what was acknowledged stays, and the next opening needs no help."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from ledger import FailStopError, GeometricLedger
from tests.children import run_python
from tests.faults import FaultyFiles
from tests.model import Model, make_accounts, make_key, make_keys, reopen_options, small_options


@pytest.mark.parametrize("kind", [("async", "private"), ("sync", "private"), ("sync", "memory")], ids="-".join)
@pytest.mark.parametrize(("call", "skip"), [("write", 0), ("write", 3), ("finish", 2), ("room", 0)])
def test_of_callers_that_share_a_frame_none_is_told_that_a_failed_one_is_there(tmp_path, kind, call, skip):
    files = FaultyFiles()
    ledger = GeometricLedger.open(tmp_path, small_options(*kind, log_bytes_max=128 * 1024), files=files)
    if call == "room":
        for seed in range(14):
            ledger.update_batch(make_accounts(seed, 60, first=1000))
        files.fail("preallocate", errno.ENOSPC, path=".seg", times=None)
        files.fail("pwrite", errno.EIO, path="shard", times=None)
    elif kind[0] == "sync":
        files.fail("start_write" if call == "write" else "finish_write", errno.EIO, path=".seg", skip=skip)
    elif call == "write":
        files.fail("pwrite", errno.ENOSPC, path=".seg", skip=skip)
    else:
        files.fail("fdatasync", errno.EIO, path=".seg", skip=1)
    barrier, lock = threading.Barrier(8), threading.Lock()
    acknowledged, refused, strange = [], [], []

    def write(writer):
        barrier.wait()
        for step in range(30):
            try:
                ledger.update_batch(make_accounts(step, 3, first=10 * writer))
                with lock:
                    acknowledged.append((writer, step))
            except FailStopError as error:
                refused.append(error)
                return
            except BaseException as error:
                strange.append(error)
                return

    threads = [threading.Thread(target=write, args=(writer,), daemon=True) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a caller hangs"
    assert [] == strange
    if call != "room" or refused:
        assert 8 == len(refused), "all stop at the first failure"
        assert all(isinstance(error.__cause__, OSError) for error in refused)
        with pytest.raises(FailStopError):
            ledger.update_batch(make_accounts(1, 1))
        with pytest.raises(FailStopError):
            ledger.close()
    ledger.__del__()
    newest = {}
    for writer, step in acknowledged:
        newest[writer] = max(step, newest.get(writer, -1))
    with GeometricLedger.open(tmp_path, reopen_options(*kind, log_bytes_max=128 * 1024)) as ledger:
        assert ledger.verify().ok
        for writer, step in newest.items():
            found = ledger.get(make_key(10 * writer)).balance
            allowed = [int(make_accounts(s, 3, first=10 * writer)["balance"][0]) for s in (step, step + 1)]
            assert found in allowed, (writer, step)


@pytest.mark.parametrize(
    "kind", [("none", "private"), ("async", "private"), ("sync", "private"), ("msync", "shared")], ids="-".join
)
def test_a_failed_sync_is_not_tried_again(tmp_path, kind):
    files = FaultyFiles()
    ledger = GeometricLedger.open(tmp_path, small_options(*kind, sync_interval_s=3600), files=files)
    ledger.update_batch(make_accounts(1, 50))
    files.fail("fdatasync", errno.EIO, times=1)
    before = files.attempts("fdatasync")
    with pytest.raises(FailStopError) as caught:
        ledger.snapshot()
    assert errno.EIO == caught.value.__cause__.errno
    for call in (lambda: ledger.update_batch(make_accounts(1, 1)), ledger.snapshot, ledger.close):
        with pytest.raises(FailStopError):
            call()
    assert 1 == files.attempts("fdatasync") - before
    ledger.__del__()
    with GeometricLedger.open(tmp_path, reopen_options(*kind)) as ledger:
        assert len(ledger) == (0 if kind[0] == "none" else 50)


def test_a_failure_in_the_background_sync_stops_the_writer(tmp_path):
    files = FaultyFiles()
    ledger = GeometricLedger.open(tmp_path, small_options("async", "private", sync_interval_s=0.01), files=files)
    files.fail("fdatasync", errno.EIO, path=".seg")
    with pytest.raises(FailStopError):
        for seed in range(100_000):
            ledger.update_batch(make_accounts(seed, 5))
    assert 1 == files.attempts("fdatasync", ".seg")
    with pytest.raises(FailStopError):
        ledger.close()


def test_a_stopped_writer_still_answers_readers_with_the_committed_state(tmp_path):
    files = FaultyFiles()
    ledger = GeometricLedger.open(tmp_path, small_options(), files=files)
    model = Model()
    model.update_batch(make_accounts(1, 30))
    ledger.update_batch(make_accounts(1, 30))
    files.fail("finish_write")
    with pytest.raises(FailStopError):
        ledger.update_batch(make_accounts(2, 60), make_keys([1]))
    assert model.state_hash() == ledger.state_hash()
    assert (len(model.accounts), model.supply) == (len(ledger), ledger.stats().supply)
    found = ledger.get_batch(make_keys(range(60)))[1]
    assert [True] * 30 + [False] * 30 == found.tolist()
    assert model.accounts[make_key(3)] == ledger.get(make_key(3))
    assert ledger.get(make_key(45)) is None
    assert 30 == sum(len(chunk) for chunk in ledger)
    with pytest.raises(FailStopError):
        ledger.close()


def test_an_error_in_a_hash_of_ones_own_hangs_nobody(tmp_path):
    calls = []

    def hash_function(keys, hash_key):
        calls.append(len(keys))
        if len(calls) == 3:
            raise ZeroDivisionError
        return keys[:, :12].copy().view("<u4")

    for durability in ("none", "sync"):
        calls.clear()
        options = small_options(durability, hash_function=hash_function, hash_name="first bytes")
        ledger = GeometricLedger.open(tmp_path / durability, options)
        ends = []

        def write(ledger=ledger, ends=ends):
            try:
                for seed in range(5):
                    ledger.update_batch(make_accounts(seed, 10))
            except BaseException as error:
                ends.append(error)

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive(), "the caller hangs"
        assert 1 == len(ends)
        ledger.__del__()


# ---------------------------------------------------------------- a disk that is really full
@pytest.fixture
def small_disk(mounted):
    """Return a function that mounts a tmpfs of so many MiB."""
    return lambda size_mib: mounted("-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs")


def test_after_a_full_disk_the_ledger_opens_when_there_is_room_again(small_disk):
    disk = small_disk(8)
    filler = disk / "filler"
    options = {"log_segment_bytes": 512 * 1024, "log_bytes_max": 4 << 20}
    ledger = GeometricLedger.open(disk / "book", small_options(**options))
    model = Model()
    with open(filler, "wb") as file:
        free = os.statvfs(disk)
        file.write(bytes(free.f_bavail * free.f_frsize - 1536 * 1024))
    with pytest.raises(FailStopError) as caught:
        for seed in range(2000):
            ledger.update_batch(make_accounts(seed, 200))
            model.update_batch(make_accounts(seed, 200))
    assert errno.ENOSPC == caught.value.__cause__.errno
    assert "No space" in str(caught.value)
    ledger.__del__()
    filler.unlink()
    with GeometricLedger.open(disk / "book", reopen_options(**options)) as ledger:
        assert ledger.verify().lsn in (model.lsn, model.lsn + 1)
        if ledger.verify().lsn > model.lsn:
            model.update_batch(make_accounts(model.lsn, 200))
        assert model.state_hash() == ledger.state_hash()
        ledger.update_batch(make_accounts(1, 200))


def test_a_ledger_that_does_not_fit_the_disk_is_an_error_and_leaves_nothing_behind(small_disk):
    disk = small_disk(16)
    code = """
import sys, errno
from ledger import GeometricLedger, Options
for storage in ("private", "memory", "shared"):
    durability = "none" if storage == "shared" else "sync"
    try:
        options = Options(capacity=10_000_000, storage=storage, durability=durability)
        GeometricLedger.open(sys.argv[1] + "/book", options)
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
    assert ["ENOSPC"] * 3 == run_python(code, disk).split()
    kept = sum(path.stat().st_blocks for path in disk.rglob("*") if path.is_file())
    assert kept <= 64
    with GeometricLedger.open(disk / "book", small_options()) as ledger:
        ledger.update_batch(make_accounts(1, 10))
