"""What a ledger stands in: clocks, moved folders, links, read-only file systems, umasks, mounts."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess

import pytest

from ledger import GeometricLedger, LockedError
from tests import children
from tests.faults import tree
from tests.model import Model, assert_equal, make_accounts, make_keys, reopen_options, small_options

KINDS = [("none", "private"), ("msync", "shared"), ("async", "memory"), ("sync", "private")]
kinds = pytest.mark.parametrize("kind", KINDS, ids="-".join)
ends = pytest.mark.parametrize("closed", [True, False], ids=["closed", "killed"])


def fill(path, kind, closed=True, batches=4):
    """Make a ledger; returns the model of what an opening has to find."""
    ledger = GeometricLedger.open(path, small_options(*kind))
    model = Model()
    for seed in range(batches):
        model.update_batch(make_accounts(seed, 40), make_keys([seed]))
        ledger.update_batch(make_accounts(seed, 40), make_keys([seed]))
    if not closed:
        ledger.snapshot()  # without a log, what a kill leaves
    ledger.close() if closed else ledger.__del__()
    return model


@kinds
@pytest.mark.parametrize("start_ns", [1_700_000_000 * 10**9, -(10**9)], ids=["set back", "before 1970"])
def test_a_clock_that_runs_backwards_changes_nothing(tmp_path, kind, start_ns, monkeypatch):
    times = iter(range(start_ns, start_ns - 3600 * 10**15, -3600 * 10**9))
    monkeypatch.setattr("time.time_ns", lambda: next(times))
    monkeypatch.setattr("time.time", lambda: next(times) / 1e9)
    model = fill(tmp_path / "book", kind, closed=False)
    for _ in range(2):
        with GeometricLedger.open(tmp_path / "book", reopen_options(*kind, checkpoint_interval_s=0.01)) as ledger:
            assert_equal(model, ledger)
            model.update_batch(make_accounts(9, 30))
            ledger.update_batch(make_accounts(9, 30))
            ledger.snapshot()


@kinds
@ends
def test_a_ledger_that_was_moved_or_copied_is_the_same(tmp_path, kind, closed):
    model = fill(tmp_path / "book", kind, closed)
    shutil.copytree(tmp_path / "book", tmp_path / "copy")
    (tmp_path / "deep" / "fr ä b").mkdir(parents=True)
    moved = shutil.move(tmp_path / "book", tmp_path / "deep" / "fr ä b" / "#1 {x}")
    for path in (moved, tmp_path / "copy"):
        with GeometricLedger.open(path, reopen_options(*kind)) as ledger:
            assert_equal(model, ledger)
            ledger.update_batch(make_accounts(7, 20))


@kinds
def test_a_link_to_the_folder_or_to_one_above_it_is_the_ledger(tmp_path, kind):
    (tmp_path / "disk" / "books").mkdir(parents=True)
    (tmp_path / "disk" / "books" / "one").mkdir()
    (tmp_path / "book").symlink_to(tmp_path / "disk" / "books" / "one")
    (tmp_path / "books").symlink_to("disk/books")
    model = fill(tmp_path / "book", kind)
    with GeometricLedger.open(tmp_path / "books" / "one", reopen_options(*kind)) as ledger:
        assert_equal(model, ledger)
        with pytest.raises(LockedError):
            GeometricLedger.open(tmp_path / "book", reopen_options(*kind))
    assert (tmp_path / "book").is_symlink()


def test_a_link_to_nowhere_is_an_error_and_stays(tmp_path):
    (tmp_path / "book").symlink_to(tmp_path / "gone")
    with pytest.raises(OSError, match="book"):
        GeometricLedger.open(tmp_path / "book", small_options())
    assert (tmp_path / "book").is_symlink()
    assert not (tmp_path / "gone").exists()


@kinds
def test_files_are_for_their_owner_alone_where_the_umask_says_so(tmp_path, kind):
    def body(say):
        os.umask(0o077)
        say(fill(tmp_path / "book", kind, closed=False).state_hash())

    (digest,) = children.run(body)
    modes = {str(p.relative_to(tmp_path)): stat.S_IMODE(p.stat().st_mode) for p in tmp_path.rglob("*")}
    assert {"book", "book/log", "book/control.bin", "book/shard_000.bin"} <= set(modes)
    assert [] == [name for name, mode in modes.items() if mode & 0o077]
    with GeometricLedger.open(tmp_path / "book", reopen_options(*kind)) as ledger:
        assert digest == ledger.state_hash()


@pytest.mark.parametrize("pid", [1, 2**22, -1, "noise", "", "9" * 40], ids=str)
def test_a_process_number_in_a_lock_file_is_only_for_messages(tmp_path, pid):
    fill(tmp_path / "book", ("sync", "private"), closed=False)
    (tmp_path / "book" / "lock").write_text(str(pid))
    with GeometricLedger.open(tmp_path / "book", reopen_options()) as ledger:
        (tmp_path / "book" / "lock").write_text(str(pid))
        with pytest.raises(LockedError):
            GeometricLedger.open(tmp_path / "book", reopen_options())
        assert 40 - 1 == len(ledger)


# ---------------------------------------------------------------- mounts
@kinds
@ends
def test_a_read_only_file_system_is_read_and_refused_to_writers(mounted, kind, closed):
    disk = mounted("-t", "tmpfs", "-o", "size=16m", "tmpfs")
    model = fill(disk / "book", kind, closed)
    remount(disk, "ro")
    before = tree(disk)
    with GeometricLedger.open(disk / "book", reopen_options(*kind), read_only=True) as ledger:
        assert_equal(model, ledger)
    with pytest.raises(OSError, match="Read-only") as caught:
        GeometricLedger.open(disk / "book", reopen_options(*kind))
    assert errno.EROFS == (caught.value.errno or caught.value.__cause__.errno)
    with pytest.raises(OSError, match="Read-only"):
        GeometricLedger.open(disk / "other", small_options(*kind))
    assert before == tree(disk)
    remount(disk, "rw")
    with GeometricLedger.open(disk / "book", reopen_options(*kind)) as ledger:
        assert_equal(model, ledger)
        ledger.update_batch(make_accounts(7, 20))


def test_a_bind_mount_of_the_folder_meets_the_same_lock(mounted, tmp_path):
    model = fill(tmp_path / "book", ("sync", "private"))
    other = mounted("--bind", str(tmp_path / "book"))
    with GeometricLedger.open(tmp_path / "book", reopen_options()) as ledger:
        for read_only in (False, True):
            with pytest.raises(LockedError):
                GeometricLedger.open(other, reopen_options(), read_only=read_only)
        assert_equal(model, ledger)
    with GeometricLedger.open(other, reopen_options()) as ledger:
        assert_equal(model, ledger)


def remount(path, how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(path)], check=True)
