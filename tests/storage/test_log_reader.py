"""Where the log ends: what is torn is cut, what is lost is said."""

import os
import shutil

import pytest

from ledger.errors import CorruptLogError, FailStopError, UnsupportedVersionError, WrongLedgerError
from ledger.layout import BLOCK_BYTES, FORMAT_VERSION, FRAME_HEADER, FRAME_HEADER_BYTES, SEGMENT_HEADER
from ledger.storage import log_reader
from ledger.storage.files import Files, segment_name
from ledger.storage.frames import frame_bytes
from ledger.storage.log import Log
from tests.faults import FaultyFiles, flip_bit, make_newer, patch, reseal, tree
from tests.storage.logs import FIELD, KIB, append, create, go_on, read, resume, scan, submit, write


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "log"


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
        if damage == "length":
            assert reader.torn_frames == 20 - frame + (within >= FRAME_HEADER_BYTES)
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
    go_on(read(folder), frames=5)
    assert 24 == read(folder).lsn


@pytest.mark.parametrize("size", [0, 10, 4095, 4096, 4097, 9000])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_short_first_segment_without_frames_opens(folder, size, mode):
    create(folder).close()
    os.truncate(folder / segment_name(1), size)
    for epoch in (2, 3):
        go_on(read(folder), epoch, mode=mode, frames=20)
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
    write(folder, 40, mode="async")
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
    write(folder, 100)
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
    for name, offset, dtype in [(*PLACE, FRAME_HEADER), (segment_name(3), 0, SEGMENT_HEADER)]:
        make_newer(copy / name, offset, dtype)
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
