"""The log: what is written is read back, what is torn is cut, what is lost is said."""

import errno
import os
import random
import shutil
import threading

import numpy as np
import pytest

from ledger.errors import (
    BatchTooLargeError,
    CorruptLogError,
    FailStopError,
    UnsupportedVersionError,
    WrongLedgerError,
)
from ledger.layout import ACCOUNT, BLOCK_BYTES, FORMAT_VERSION, FRAME_HEADER, SEGMENT_HEADER
from ledger.storage import log_reader
from ledger.storage.files import Files, segment_name
from ledger.storage.frames import frame_bytes
from ledger.storage.log import Log, Mark
from tests.crash.disk import Disk, lay
from tests.crash.recorder import Recorder
from tests.faults import FaultyFiles, flip_bit, patch, reseal, tree

LEDGER = bytes(range(16))
START = Mark(0, bytes(16), 1)
KIB = 1024
FIELD = {name: FRAME_HEADER.fields[name][1] for name in FRAME_HEADER.names}


def payload(lsn, rows, deletes):
    """Return the rows and keys that frame `lsn` of a test holds."""
    generator = np.random.default_rng(lsn)
    accounts = np.frombuffer(generator.bytes(rows * ACCOUNT.itemsize), ACCOUNT)
    return accounts, np.frombuffer(generator.bytes(deletes * 32), np.uint8).reshape(deletes, 32)


def submit(log, rows=3, deletes=1, durable_lsn=None):
    lsn = log.lsn + 1
    accounts, keys = payload(lsn, rows, deletes)
    buffer = log.buffer(rows, deletes)
    buffer.rows_view(rows)[:] = accounts.view(np.uint64).reshape(rows, 8)
    buffer.keys_view(deletes, rows)[:] = keys
    return log.submit(
        buffer,
        lsn=lsn,
        rows=rows,
        deletes=deletes,
        batches=1,
        durable_lsn=log.durable_lsn if durable_lsn is None else durable_lsn,
        known_lsn=lsn - 1,
        live=lsn,
        supply=(1 << 70) + lsn,
        wall_time_ns=lsn,
    )


def append(log, count=1, **arguments):
    for _ in range(count):
        ticket = submit(log, **arguments)
        log.wait(ticket)
        log.release(ticket.buffer)


def create(folder, *, files=None, mode="sync", segment_bytes=64 * KIB, bytes_max=1024 * KIB):
    return Log.create(
        files or Files(),
        folder,
        ledger_id=LEDGER,
        epoch=1,
        mode=mode,
        segment_bytes=segment_bytes,
        bytes_max=bytes_max,
    )


def scan(folder, mark=START, *, files=None, **arguments):
    return Log.scan(
        files or Files(),
        folder,
        ledger_id=LEDGER,
        lsn=mark.lsn,
        digest=mark.digest,
        first_segment=mark.first_segment,
        **arguments,
    )


def read(folder, mark=START, **arguments):
    """Read all frames, compare each with what the test wrote, and return the finished scan."""
    reader = scan(folder, mark, **arguments)
    for frame in reader:
        rows, keys = payload(frame.lsn, len(frame.rows), len(frame.deletes))
        assert rows.tobytes() == frame.rows.tobytes() and keys.tobytes() == frame.deletes.tobytes()
        assert (1 << 70) + frame.lsn == frame.header.supply
        assert frame.lsn == frame.header.live == frame.header["live"] == frame.header["lsn"]
    return reader


def resume(reader, epoch=2, *, mode="sync", segment_bytes=64 * KIB, bytes_max=1024 * KIB):
    return Log.resume(reader, epoch=epoch, mode=mode, segment_bytes=segment_bytes, bytes_max=bytes_max)


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
    log = create(folder)
    append(log, 20)
    log.close()
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

    log = create(folder, files=NoDirect())
    append(log, 40)
    log.close()
    assert 40 == read(folder).lsn


def test_a_read_writes_nothing(folder):
    log = create(folder)
    append(log, 20)
    log.close()
    files = FaultyFiles()
    before = tree(folder)
    read(folder, files=files)
    assert before == tree(folder)
    assert {"open", "pread"} == {name for name, _ in files.calls}


def test_a_log_goes_on_after_each_opening(folder):
    create(folder).close()
    for epoch in range(2, 12):
        log = resume(read(folder), epoch)
        append(log, 7)
        log.close()
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
    log = create(folder)
    append(log, 30)
    log.close()
    (folder / segment_name(1)).unlink()
    with pytest.raises(CorruptLogError, match="missing"):
        read(folder)
    with pytest.raises(CorruptLogError, match="missing"):
        resume(scan(folder, Mark(0, bytes(16), 99)))


def test_a_missing_segment_in_the_middle_is_corruption(folder):
    log = create(folder)
    append(log, 50)
    log.close()
    (folder / segment_name(2)).unlink()
    with pytest.raises(CorruptLogError) as caught:
        read(folder)
    assert 16 == caught.value.lsn


# ---------------------------------------------------------------- torn tails
OFFSETS = [0, 1, 8, 12, FIELD["lsn"], FIELD["rows"], FIELD["frame_bytes"], 128, 252, 255, 256, 300, 4095, 4096, 4764]


@pytest.fixture(scope="module")
def tail(tmp_path_factory):
    """A log of 20 frames of two blocks, of which 17 are known to be durable."""
    folder = tmp_path_factory.mktemp("tail") / "log"
    log = create(folder, segment_bytes=256 * KIB)
    append(log, 17, rows=70)
    append(log, 3, rows=70, durable_lsn=17)
    log.close()
    return folder


@pytest.mark.parametrize("damage", ["cut", "zero", "length"])
@pytest.mark.parametrize("frame", [18, 19, 20])
def test_a_torn_tail_is_cut_and_the_log_goes_on(tail, folder, frame, damage):
    size = frame_bytes(70, 1)
    for within in OFFSETS:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tail, folder)
        path = folder / segment_name(1)
        at = BLOCK_BYTES + (frame - 1) * size + within
        if damage == "cut":
            os.truncate(path, at)
        elif damage == "zero":
            patch(path, at, bytes(path.stat().st_size - at))
        else:
            patch(path, at - within % 4, b"\xff\xff\xff\xff")
        reader = read(folder)
        assert frame - 1 == reader.lsn
        log = resume(reader, segment_bytes=256 * KIB)
        append(log, 2, rows=70)
        log.close()
        assert frame + 1 == read(folder).lsn
        log = resume(read(folder), 3, segment_bytes=256 * KIB)
        append(log, 30)
        log.close()
        assert frame + 31 == read(folder).lsn


def test_no_length_field_makes_the_reader_take_memory(tail, folder):
    shutil.copytree(tail, folder)
    path, at = folder / segment_name(1), BLOCK_BYTES + 19 * frame_bytes(70, 1)
    for field in ("rows", "deletes", "payload_bytes", "frame_bytes", "payload_offset"):

        def grow(header, field=field):
            header[field] = 2 ** (8 * header.dtype[field].itemsize) - 1

        whole = path.read_bytes()
        reseal(path, at, FRAME_HEADER, grow)
        reader = scan(folder)
        assert 19 == sum(1 for _ in reader)
        path.write_bytes(whole)


def test_a_zero_byte_segment_behind_a_torn_frame_opens(tail, folder):
    shutil.copytree(tail, folder)
    os.truncate(folder / segment_name(1), BLOCK_BYTES + 19 * frame_bytes(70, 1) + 100)
    (folder / segment_name(2)).write_bytes(b"")
    (folder / "0000000003.seg.tmp").write_bytes(b"x")
    log = resume(read(folder))
    append(log, 5)
    log.close()
    assert 24 == read(folder).lsn


@pytest.mark.parametrize("size", [0, 10, 4095, 4096, 4097, 9000])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_short_first_segment_without_frames_opens(folder, size, mode):
    create(folder).close()
    os.truncate(folder / segment_name(1), size)
    for epoch in (2, 3):
        log = resume(read(folder), epoch, mode=mode)
        append(log, 20)
        log.close()
    assert 40 == read(folder).lsn


def test_frames_behind_a_gap_are_cut_when_nobody_said_they_were_durable(folder):
    log = create(folder, mode="async")
    append(log, 2)
    log.sync()
    append(log, 8, durable_lsn=2)
    log.close()
    patch(folder / segment_name(1), BLOCK_BYTES * 5, bytes(BLOCK_BYTES * 2))  # frames 5 and 6
    reader = read(folder)
    assert 4 == reader.lsn
    assert [3, 4] == [place[3] for place in reader.unsure]
    log = resume(reader, mode="async")
    append(log)  # 5 again; the old 6 is gone, the old 7 does not follow
    log.close()
    reader = read(folder)
    assert (5, 2) == (reader.lsn, reader.epoch)


def test_an_older_epoch_never_follows(folder):
    log = create(folder)
    append(log, 3)
    log.epoch = 0
    append(log)
    log.close()
    assert 3 == read(folder).lsn


def test_the_tail_that_nobody_vouched_for_is_written_again_and_synced(folder):
    log = create(folder, mode="async")
    append(log, 40)
    log.close()
    files = FaultyFiles()
    reader = read(folder, files=files)
    assert 40 == len(reader.unsure)
    files.calls.clear()
    before = tree(folder)
    resume(reader, mode="async").close()
    assert before == tree(folder)
    for segment in (1, 2, 3):
        calls = [name for name, path in files.calls if segment_name(segment) in path]
        assert "fdatasync" in calls and "pwrite" not in calls[calls.index("fdatasync") :]
    files = FaultyFiles()
    reader = read(folder, files=files)
    files.fail("fdatasync")
    with pytest.raises(FailStopError):
        resume(reader, mode="async")


# ---------------------------------------------------------------- corruption
@pytest.fixture(scope="module")
def hundred(tmp_path_factory):
    """A log of 100 acknowledged frames of one block, 15 in a segment."""
    folder = tmp_path_factory.mktemp("hundred") / "log"
    log = create(folder)
    append(log, 100)
    log.close()
    return folder


@pytest.fixture
def copy(hundred, folder):
    shutil.copytree(hundred, folder)
    return folder


PLACE = segment_name(4), 5 * BLOCK_BYTES  # frame 50: segment 4, fifth frame


@pytest.mark.parametrize(
    "within", [*FIELD.values(), 256, 300, 256 + 3 * 64, 256 + 3 * 64 + 31], ids=lambda value: f"byte{value}"
)
def test_a_flipped_bit_in_the_middle_is_corruption_with_its_place(copy, within):
    name, offset = PLACE
    flip_bit(copy / name, offset + within, 3)
    before = tree(copy)
    with pytest.raises(CorruptLogError) as caught:
        read(copy)
    assert (copy / name, offset, 50) == (caught.value.path, caught.value.offset, caught.value.lsn)
    assert str(offset) in str(caught.value) and name in str(caught.value)
    assert before == tree(copy)


def test_padding_is_no_part_of_a_frame(copy):
    flip_bit(copy / PLACE[0], PLACE[1] + 4095)
    assert 100 == read(copy).lsn


def test_a_promise_in_a_later_segment_counts(copy):
    name, offset = PLACE
    patch(copy / name, offset, bytes(64 * KIB - offset))
    with pytest.raises(CorruptLogError) as caught:
        read(copy)
    assert (copy / name, offset) == (caught.value.path, caught.value.offset)


def test_salvage_takes_what_stands_before_the_hole(copy):
    name, offset = PLACE
    flip_bit(copy / name, offset + 300)
    reader = read(copy, salvage=True)
    assert (49, 50) == (reader.lsn, reader.hole.lsn)
    log = resume(reader)
    mark = log.mark()
    log.recycle(mark)
    log.close()
    assert 49 == read(copy, mark).lsn
    log = resume(read(copy, mark), 3)
    append(log, 20)
    log.close()
    assert 69 == read(copy, mark).lsn


def test_a_read_error_is_an_error_and_cuts_nothing(copy, monkeypatch):
    monkeypatch.setattr(log_reader, "WINDOW_BYTES", BLOCK_BYTES)
    before = tree(copy)
    files = FaultyFiles()
    files.fail("pread", path=PLACE[0], skip=5)  # the header of the segment, then a block each
    seen = []
    with pytest.raises(OSError, match="Input/output"):
        for frame in scan(copy, files=files):
            seen.append(frame.lsn)
    assert 49 == seen[-1]
    assert before == tree(copy)


def test_a_damaged_segment_header_before_frames_is_corruption(copy):
    for offset in range(SEGMENT_HEADER.itemsize):
        flip_bit(copy / segment_name(3), offset, 5)
        with pytest.raises(CorruptLogError) as caught:
            read(copy)
        assert (copy / segment_name(3), 0) == (caught.value.path, caught.value.offset)
        flip_bit(copy / segment_name(3), offset, 5)


def test_segments_in_the_wrong_place_are_named(copy):
    shutil.copy(copy / segment_name(2), copy / segment_name(3))
    with pytest.raises(WrongLedgerError, match="segment 2"):
        read(copy)


def test_the_log_of_another_ledger_is_named(copy):
    with pytest.raises(WrongLedgerError):
        list(Log.scan(Files(), copy, ledger_id=bytes(16), lsn=0, digest=bytes(16), first_segment=1))


def test_a_newer_version_is_told_apart_from_damage(copy):
    def newer(header):
        header["version"] = FORMAT_VERSION + 1

    for name, offset, dtype in [(*PLACE, FRAME_HEADER), (segment_name(3), 0, SEGMENT_HEADER)]:
        reseal(copy / name, offset, dtype, newer)
        before = tree(copy)
        with pytest.raises(UnsupportedVersionError) as caught:
            read(copy)
        assert (copy / name, FORMAT_VERSION + 1, FORMAT_VERSION) == (
            caught.value.path,
            caught.value.found,
            caught.value.supported,
        )
        assert before == tree(copy)


def test_a_sound_frame_with_another_chain_does_not_follow(copy):
    def other(header):
        header["previous_digest"][0, 0] ^= 1

    reseal(copy / PLACE[0], PLACE[1], FRAME_HEADER, other)
    with pytest.raises(CorruptLogError):
        read(copy)


def test_rows_that_look_like_a_header_promise_nothing(folder):
    log = create(folder)
    append(log, 5)
    ticket = submit(log, rows=200)
    log.wait(ticket)
    log.close()
    at = BLOCK_BYTES * 6
    forged = (folder / segment_name(1)).read_bytes()[at : at + 256]
    patch(folder / segment_name(1), at + BLOCK_BYTES, forged)  # within the payload, which breaks frame 6
    assert 5 == read(folder).lsn


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
    log = resume(read(folder))
    append(log, 30)
    log.close()
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
