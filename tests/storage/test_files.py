"""Names, writes, the lock and the clean marker."""

import errno
import gc
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from ledger.errors import LockedError
from ledger.storage import directio
from ledger.storage.files import (
    CLEAN_NAME,
    LOCK_NAME,
    Files,
    LedgerLock,
    boot_id,
    index_name,
    read_clean,
    remove_clean,
    segment_name,
    segment_sequence,
    shard_name,
    write_clean,
)
from ledger.storage.frames import FrameBuffer
from tests.faults import FaultyFiles, flip_bit, tree

CHILD = """
import sys
from pathlib import Path
from ledger.errors import LockedError
from ledger.storage.files import Files, LedgerLock
try:
    lock = LedgerLock(Path(sys.argv[1]), exclusive=sys.argv[2] == "w", files=Files())
except LockedError as error:
    print("locked", error.pid)
else:
    print("mine", flush=True)
    sys.stdin.read() if len(sys.argv) > 3 else None
"""


def other_process(path, kind="w"):
    command = [sys.executable, "-c", CHILD, str(path), kind]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def lock(path, *, exclusive=True):
    return LedgerLock(path, exclusive=exclusive, files=Files())


def test_names_lead_back_to_numbers():
    assert [shard_name(0), shard_name(3, 1), index_name(12)] == ["shard_000.bin", "shard_003.g2", "index_012.bin"]
    assert segment_sequence(segment_name(7)) == 7
    assert segment_sequence(segment_name(12345678901)) == 12345678901
    assert [segment_sequence(n) for n in ("x.seg", "0000000001.seg.tmp", "00000000001.seg")] == [None] * 3


def test_a_write_goes_on_after_a_partial_one(tmp_path, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:3], at))
    files = Files()
    fd = files.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    files.pwrite(fd, np.arange(5, dtype=np.uint16), 4)
    assert bytes(4) + np.arange(5, dtype=np.uint16).tobytes() == files.pread(fd, 100, 0)
    files.close(fd)


@pytest.mark.parametrize("failure", ["pwrite", "fsync", "replace"])
def test_a_failed_replacement_leaves_the_old_file_and_no_other(tmp_path, failure):
    files = FaultyFiles()
    files.write_whole(tmp_path / "f", b"old")
    files.fail(failure, errno.ENOSPC)
    with pytest.raises(OSError, match="No space"):
        files.write_whole(tmp_path / "f", b"new")
    assert {"f": b"old"} == tree(tmp_path)


@pytest.mark.parametrize("way", ["aio", "thread", "buffered"])
def test_a_started_write_is_there_when_it_is_finished(tmp_path, way, monkeypatch):
    if way == "thread":
        monkeypatch.setattr(directio._state, "refused", True)
    files, buffer = Files(), FrameBuffer(100, 0)
    buffer.bytes[:] = np.arange(buffer.bytes.size, dtype=np.uint8)
    direct = way != "buffered"
    flags = os.O_RDWR | os.O_CREAT | (os.O_DIRECT | os.O_DSYNC if direct else 0)
    fd = files.open(tmp_path / "f", flags)
    handles = [files.start_write(fd, buffer.bytes[:4096], at * 4096, direct) for at in range(8)]
    for handle in handles:
        files.finish_write(handle)
    files.close(fd)
    assert buffer.bytes[:4096].tobytes() * 8 == (tmp_path / "f").read_bytes()


@pytest.mark.parametrize("direct", [True, False])
def test_a_started_write_that_fails_says_so(tmp_path, direct):
    files, buffer = Files(), FrameBuffer(1, 0)
    (tmp_path / "f").write_bytes(b"")
    fd = files.open(tmp_path / "f", os.O_RDONLY)
    with pytest.raises(OSError, match="Bad file descriptor"):
        files.finish_write(files.start_write(fd, buffer.bytes, 0, direct))
    files.close(fd)


def test_started_writes_work_in_a_forked_child(tmp_path):
    files, buffer = Files(), FrameBuffer(1, 0)
    fd = files.open(tmp_path / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT | os.O_DSYNC)
    files.finish_write(files.start_write(fd, buffer.bytes, 0, True))
    pid = os.fork()
    if pid == 0:
        files.finish_write(files.start_write(fd, buffer.bytes, 4096, True))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert files.size(fd) == 8192
    files.close(fd)


def test_space_that_is_not_there_is_an_error(tmp_path):
    files = Files()
    fd = files.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    with pytest.raises(OSError) as caught:
        files.preallocate(fd, 1 << 50)
    assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
    files.close(fd)


# ---------------------------------------------------------------- lock
def test_a_second_opening_is_refused_by_every_path_and_does_not_drop_the_first(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "link").symlink_to(home)
    first = lock(home)
    paths = [home, tmp_path / "link", home / ".." / "home", home.relative_to(home.anchor)]
    for path in paths[:3]:
        with pytest.raises(LockedError) as caught:
            lock(path)
        assert caught.value.pid == os.getpid()
        assert f"already open by process {os.getpid()}" in str(caught.value)
    assert f"locked {os.getpid()}" == other_process(home)
    assert f"locked {os.getpid()}" == other_process(home, "r")
    first.release()
    assert "mine" == other_process(home)


def test_a_relative_path_meets_the_same_lock(tmp_path, monkeypatch):
    first = lock(tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(LockedError):
        lock(type(tmp_path)(tmp_path.name))
    first.release()


def test_hard_links_to_the_files_of_a_ledger_meet_the_same_lock(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for path in (one, two):
        path.mkdir()
    (one / "control.bin").write_bytes(b"x")
    os.link(one / "control.bin", two / "control.bin")
    first = lock(one)
    with pytest.raises(LockedError):
        lock(two)
    first.release()
    lock(two).release()


def test_readers_share_and_write_nothing(tmp_path):
    readers = [lock(tmp_path, exclusive=False) for _ in range(2)]
    assert {} == tree(tmp_path)
    with pytest.raises(LockedError, match="open for reading") as caught:
        lock(tmp_path)
    assert caught.value.pid is None
    assert "locked None" == other_process(tmp_path)
    assert "mine" == other_process(tmp_path, "r")
    for reader in readers:
        reader.release()
    lock(tmp_path).release()


def test_the_lock_of_a_killed_process_is_no_lock(tmp_path):
    command = [sys.executable, "-c", CHILD, str(tmp_path), "w", "stay"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "mine\n"
    with pytest.raises(LockedError) as caught:
        lock(tmp_path)
    assert caught.value.pid == child.pid
    child.kill()
    child.communicate()
    assert (tmp_path / LOCK_NAME).exists()
    lock(tmp_path).release()


def test_a_living_pid_in_the_lock_file_is_no_lock(tmp_path):
    (tmp_path / LOCK_NAME).write_text(f"{os.getppid()}\n")
    lock(tmp_path).release()


def test_a_forked_child_leaves_the_lock_with_its_parent(tmp_path):
    first = lock(tmp_path)
    for leave in (lambda: os._exit(0), lambda: (first.release(), os._exit(0))):
        pid = os.fork()
        if pid == 0:
            if first.held or first._fds:
                os._exit(1)
            leave()
        assert os.waitpid(pid, 0)[1] == 0
        assert first.held
        assert other_process(tmp_path).startswith("locked")
    first.release()


def test_a_child_that_lives_on_does_not_hold_the_lock(tmp_path):
    first = lock(tmp_path)
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    first.release()
    try:
        time.sleep(0.05)
        deadline = time.monotonic() + 20  # until the child has run its hook
        while (answer := other_process(tmp_path)) != "mine" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "mine" == answer
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_a_lock_that_is_forgotten_is_given_up(tmp_path):
    lock(tmp_path)
    gc.collect()
    lock(tmp_path).release()


def test_a_full_disk_does_not_refuse_the_lock(tmp_path):
    files = FaultyFiles()
    files.fail("pwrite", errno.ENOSPC)
    first = LedgerLock(tmp_path, exclusive=True, files=files)
    assert first.held
    first.release()
    first.release()
    assert not first.held


# ---------------------------------------------------------------- clean marker
def write_marker(path):
    write_clean(Files(), path, ledger_id=bytes(range(16)), epoch=3, lsn=2**40, sequence=9, image_bytes=123)


def test_the_clean_marker_says_what_was_written(tmp_path):
    assert read_clean(Files(), tmp_path) is None
    write_marker(tmp_path)
    marker = read_clean(Files(), tmp_path)
    assert bytes(range(16)) == marker["ledger_id"].tobytes()
    assert [3, 2**40, 9, 123] == [int(marker[n]) for n in ("epoch", "lsn", "sequence", "image_bytes")]
    remove_clean(Files(), tmp_path)
    remove_clean(Files(), tmp_path)
    assert {} == tree(tmp_path)


def test_a_damaged_clean_marker_is_none(tmp_path):
    write_marker(tmp_path)
    path = tmp_path / CLEAN_NAME
    whole = path.read_bytes()
    for offset in range(len(whole)):
        flip_bit(path, offset, offset % 8)
        assert read_clean(Files(), tmp_path) is None
        flip_bit(path, offset, offset % 8)
    for data in (b"", whole[:-1], whole + b"x", bytes(len(whole))):
        path.write_bytes(data)
        assert read_clean(Files(), tmp_path) is None


def test_the_boot_id_stays():
    assert boot_id() == boot_id() and len(boot_id()) == 16
