"""The log: what is written is read back, segments are reused, and the first failure is the last."""

import errno
import os
import random
import shutil
import threading

import pytest

from ledger.errors import BatchTooLargeError, CorruptLogError, FailStopError
from ledger.layout import BLOCK_BYTES
from ledger.storage.files import Files, segment_name
from ledger.storage.frames import frame_bytes
from ledger.storage.log import Mark
from tests.crash.disk import Disk, lay
from tests.crash.recorder import Recorder
from tests.faults import FaultyFiles, tree
from tests.storage.logs import KIB, START, append, create, go_on, read, resume, scan, submit, write


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "log"


# ---------------------------------------------------------------- writing and reading
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("place", ["disk", "memory"])
def test_what_is_written_is_read_over_many_segments(tmp_path, mode, place):
    folder = tmp_path / "log" if place == "disk" else type(tmp_path)(f"/dev/shm/{os.getpid()}-log")
    try:
        log = create(folder, mode=mode)
        for rows, deletes in [(0, 1), (1, 0), (60, 0), (0, 120), (61, 1), (3, 7), (500, 0)] * 3:
            append(log, rows=rows, deletes=deletes)
        assert 21 == log.sync() == log.lsn
        log.close()
        reader = read(folder)
        assert (21, log.digest, 21, 1) == (reader.lsn, reader.digest, reader.frames, reader.epoch)
        assert reader.sequence == log.store.current.sequence > 2
        assert reader.bytes_read == log.bytes_written
    finally:
        shutil.rmtree(folder)


def test_one_row_is_one_block():
    assert [BLOCK_BYTES] * 3 == [frame_bytes(1, 0), frame_bytes(60, 0), frame_bytes(0, 1)]
    assert 2 * BLOCK_BYTES == frame_bytes(60, 1)


def test_several_frames_are_under_way_at_once_and_their_buffers_come_back(folder):
    log = create(folder)
    for _ in range(20):
        tickets = [submit(log, rows=50) for _ in range(3)]
        for ticket in tickets:
            log.wait(ticket)
            log.wait(ticket)
            log.release(ticket.buffer)
    log.close()
    assert 60 == read(folder).lsn


def test_without_native_aio_a_thread_writes(folder, monkeypatch):
    from ledger.storage import directio

    monkeypatch.setattr(directio._state, "refused", True)
    write(folder, 20)
    assert 20 == read(folder).lsn


def test_a_file_system_without_direct_writes_gets_buffered_ones(folder):
    class NoDirect(FaultyFiles):
        def open(self, path, flags, mode=0o640):
            if flags & os.O_DIRECT:
                raise OSError(errno.EINVAL, "no O_DIRECT here")
            return super().open(path, flags, mode)

    log = create(folder, files=NoDirect())
    append(log, 40)
    assert not log.store.direct
    log.close()
    assert 40 == read(folder).lsn


def test_a_direct_write_that_is_refused_is_found_out_at_opening(folder):
    class NoDirect(FaultyFiles):
        def __init__(self):
            super().__init__()
            self.direct = set()

        def open(self, path, flags, mode=0o640):
            fd = super().open(path, flags, mode)
            if flags & os.O_DIRECT:
                self.direct.add(fd)
            else:
                self.direct.discard(fd)
            return fd

        def pwrite(self, fd, data, offset):
            if fd in self.direct:
                raise OSError(errno.EINVAL, "alignment")
            super().pwrite(fd, data, offset)

    write(folder, 40, files=NoDirect())
    assert 40 == read(folder).lsn


def test_a_read_writes_nothing(folder):
    write(folder, 20)
    files = FaultyFiles()
    before = tree(folder)
    read(folder, files=files)
    assert before == tree(folder)
    assert {"open", "pread"} == {name for name, _ in files.calls}


def test_a_log_goes_on_after_each_opening(folder):
    create(folder).close()
    for epoch in range(2, 12):
        go_on(read(folder), epoch, frames=7)
    reader = read(folder)
    assert (70, 11) == (reader.lsn, reader.epoch)


# ---------------------------------------------------------------- size
def test_a_frame_larger_than_a_segment_gets_one_of_its_own_which_is_removed(folder):
    log = create(folder)
    append(log, 2)
    append(log, rows=5000)
    append(log, 30)
    append(log, rows=3000)
    mark = log.mark()
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert BLOCK_BYTES + frame_bytes(5000, 1) in sizes.values()
    assert 34 == read(folder).lsn
    log.recycle(mark)
    assert {64 * KIB} == {path.stat().st_size for path in folder.iterdir()}
    append(log, 40)
    log.close()
    assert 74 == read(folder, mark).lsn


def test_a_frame_larger_than_the_log_is_refused_and_changes_nothing(folder):
    log = create(folder, bytes_max=128 * KIB)
    with pytest.raises(BatchTooLargeError):
        submit(log, rows=2000)
    append(log, 3)
    log.close()
    assert 3 == read(folder).lsn


@pytest.mark.parametrize("rows", [3, 200, 900, 1500])
def test_room_ends_at_the_limit_and_comes_back_with_a_checkpoint(folder, rows):
    log = create(folder, bytes_max=256 * KIB)
    size = frame_bytes(rows, 1)
    mark = START
    for _ in range(4):
        assert log.room_for(size)
        while log.room_for(size):
            append(log, rows=rows)
            assert log.store.live_bytes <= 256 * KIB
        last = log.lsn
        assert last == read(folder, mark).lsn
        mark = log.mark()
        log.recycle(mark)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= (256 + 128) * KIB
    log.close()


def test_segments_grow_to_the_size_asked_for_and_the_large_ones_are_kept(folder):
    log = create(folder, segment_bytes=16 << 20, bytes_max=64 << 20)
    while len(log.store.live) < 4:
        append(log, rows=15000, deletes=0)
    assert [4 << 20, 8 << 20, 16 << 20, 16 << 20] == [segment.size for segment in log.store.live]
    log.recycle(log.mark())
    append(log, rows=15000)
    assert 16 << 20 == log.store.current.size
    log.close()


# ---------------------------------------------------------------- checkpoints
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_recycled_segments_hold_old_frames_that_do_not_count(folder, mode):
    log = create(folder, mode=mode, bytes_max=256 * KIB)
    mark = START
    for turn in range(6):
        append(log, 40)
        log.sync()
        mark = log.mark()
        log.recycle(mark)
        append(log, turn)
        assert mark.lsn + turn == read(folder, mark).lsn
        log.sync()
        if turn % 2:
            log.close()
            log = resume(read(folder, mark), log.epoch + 1, mode=mode, bytes_max=256 * KIB)
    log.close()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= (256 + 64) * KIB


def test_a_checkpoint_without_frames_takes_no_new_segment(folder):
    log = create(folder)
    assert START == log.mark() == log.mark()
    append(log)
    assert log.mark() == log.mark()
    log.close()


def test_until_recycle_both_control_blocks_find_their_frames(folder):
    log = create(folder)
    append(log, 30)
    mark = log.mark()
    assert (30, 30) == (read(folder).lsn, read(folder, mark).lsn)
    append(log, 5)
    assert (35, 35) == (read(folder).lsn, read(folder, mark).lsn)
    log.close()


def test_the_first_segment_must_be_there(folder):
    write(folder, 30)
    (folder / segment_name(1)).unlink()
    with pytest.raises(CorruptLogError, match="missing"):
        read(folder)
    with pytest.raises(CorruptLogError, match="missing"):
        resume(scan(folder, Mark(0, bytes(16), 99)))


def test_a_missing_segment_in_the_middle_is_corruption(folder):
    write(folder, 50)
    (folder / segment_name(2)).unlink()
    with pytest.raises(CorruptLogError) as caught:
        read(folder)
    assert 16 == caught.value.lsn


# ---------------------------------------------------------------- failing
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize(
    ("mode", "stage"),
    [("sync", "start_write"), ("sync", "finish_write"), ("async", "pwrite"), ("async", "fdatasync")],
)
def test_the_first_error_ends_the_log_and_nothing_is_tried_again(folder, mode, error, stage):
    files = FaultyFiles()
    log = create(folder, files=files, mode=mode)
    append(log, 3)
    log.sync()
    files.fail(stage, error)
    files.calls.clear()
    with pytest.raises(FailStopError) as caught:
        append(log)
        log.sync()
    assert error == caught.value.__cause__.errno
    tried = files.attempts(stage)
    for call in (lambda: append(log), log.sync, log.mark, lambda: log.recycle(START), log.check):
        with pytest.raises(FailStopError) as again:
            call()
        assert caught.value.__cause__ is again.value.__cause__
    assert tried == files.attempts(stage) == 1
    assert 3 == log.durable_lsn
    log.close()
    assert 3 <= read(folder).lsn <= 4


def test_when_one_of_two_frames_under_way_fails_neither_counts(folder):
    files = FaultyFiles()
    log = create(folder, files=files)
    append(log, 2)
    files.fail("finish_write")
    first, second = submit(log), submit(log)
    with pytest.raises(FailStopError):
        log.wait(first)
    with pytest.raises(FailStopError):
        log.wait(second)
    assert 2 == log.durable_lsn
    log.close()


@pytest.mark.parametrize("call", ["preallocate", "pwrite", "fsync", "replace", "sync_directory"])
def test_a_full_disk_met_in_the_background_is_raised_when_the_segment_is_needed(folder, call):
    files = FaultyFiles()
    log = create(folder, files=files)
    files.fail(call, errno.ENOSPC, path="log" if call == "sync_directory" else "0000000002")
    append(log, 15)
    with pytest.raises(FailStopError) as caught:
        append(log)
    assert errno.ENOSPC == caught.value.__cause__.errno
    log.close()
    assert not list(folder.glob("*.tmp")) or call == "replace"
    go_on(read(folder), frames=30)
    assert 45 == read(folder).lsn


def test_the_next_segment_is_ready_before_it_is_needed(folder):
    log = create(folder)
    append(log, 10)
    log.store.wait()
    assert 2 == log.store.next.sequence
    append(log, 10)
    assert 2 == log.store.current.sequence
    log.close()
    log = resume(read(folder))
    assert 2 == log.store.current.sequence
    log.close()


def test_a_segment_that_is_about_to_be_made_may_be_waited_for(folder, monkeypatch):
    log = create(folder)

    class Late(threading.Thread):
        def start(self):
            log.wait_prepared()  # as the thread of a checkpoint may, at this moment
            super().start()

    monkeypatch.setattr(threading, "Thread", Late)
    append(log, 10)
    log.wait_prepared()
    assert 2 == log.store.next.sequence
    log.close()


def test_two_syncs_at_once_both_wait_for_the_disk(folder):
    class SlowFiles(Files):
        entered, leave = threading.Event(), threading.Event()

        def fdatasync(self, fd):
            self.entered.set()
            assert self.leave.wait(30)
            super().fdatasync(fd)

    files = SlowFiles()
    files.leave.set()
    log = create(folder, files=files, mode="async")
    append(log)
    files.leave.clear()
    files.entered.clear()
    durable = []
    threads = [threading.Thread(target=lambda: durable.append(log.sync())) for _ in range(2)]
    threads[0].start()
    assert files.entered.wait(30)
    threads[1].start()
    threads[1].join(0.05)
    assert ([], 0) == (durable, log.durable_lsn)
    files.leave.set()
    for thread in threads:
        thread.join()
    assert [1, 1] == durable
    log.close()


# ---------------------------------------------------------------- power cuts
def write_and_recycle(log, files, choose):
    """Write, and make checkpoints, saying what is durable and what a control block may name."""
    for turn in range(8):
        for _ in range(3):
            tickets = [submit(log, rows=choose.choice([1, 100, 300])) for _ in range(2)]
            for ticket in tickets:
                log.wait(ticket)
            files.mark("durable", log.durable_lsn)
        if turn % 2:
            files.mark("durable", log.sync())
        if turn % 3 == 2:
            log.sync()
            mark = log.mark()
            files.mark("checkpoint", mark)
            log.recycle(mark)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_every_power_cut_leaves_a_prefix_with_all_that_was_durable(tmp_path, mode):
    home, image, choose = tmp_path / "home", tmp_path / "image", random.Random(1)
    home.mkdir()
    files = Recorder(home, delay_s=0)
    log = create(home / "log", files=files, mode=mode, bytes_max=256 * KIB)
    files.mark("made", 0)
    write_and_recycle(log, files, choose)
    log.close()
    disk, reached = Disk(files.start), {"durable": 0, "checkpoint": START}
    for number, op in enumerate(files.ops):
        disk.do(op)
        if op.kind == "mark":
            reached[op.a] = op.b
        elif "made" in reached and number % 3 == 0:
            lay(disk.survive(choose), image)
            mark = reached["checkpoint"]
            reader = read(image / "log", mark)
            assert reached["durable"] <= reader.lsn <= log.lsn
            again = resume(reader, mode=mode, bytes_max=256 * KIB)
            append(again, 20)
            again.sync()
            again.close()
            assert reader.lsn + 20 == read(image / "log", mark).lsn
