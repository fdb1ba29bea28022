"""Damage to the log: a torn end is cut, what is lost is said."""

from __future__ import annotations

import os

import pytest

from ledger import CorruptLogError
from ledger.layout import BLOCK_BYTES, FRAME_HEADER_BYTES
from ledger.storage.files import Files
from tests.crash.disk import lay
from tests.damaged import SEGMENT, make, reopen
from tests.faults import flip_bit, tree
from tests.model import make_accounts

FRAMES = 6


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A killed ledger in mode "sync" with FRAMES frames in its log: files, models, offsets of the frames."""
    path = tmp_path_factory.mktemp("killed") / "book"
    models = make(path, ("sync", "private"), n=70, seeds=range(FRAMES), close=False)
    data = (path / SEGMENT).read_bytes()
    offsets = [at for at in range(BLOCK_BYTES, len(data), BLOCK_BYTES) if data[at : at + 8] == b"GLFRAME1"]
    assert FRAMES == len(offsets)
    return tree(path), models, [*offsets, offsets[-1] + offsets[1] - offsets[0]]


def open_and_go_on(path, models, expected):
    """Open, compare with the model after `expected` batches, write, and open again."""
    for read_only in (True, False):
        ledger = reopen(path, ("sync", "private"), read_only=read_only)
        assert models[expected].state_hash() == ledger.state_hash()
        assert expected == ledger.verify().lsn
        if not read_only:
            model = models[expected].copy()
            model.update_batch(make_accounts(99, 10))
            ledger.update_batch(make_accounts(99, 10))
        ledger.__del__()
    ledger = reopen(path, ("sync", "private"))
    assert model.state_hash() == ledger.state_hash()
    ledger.__del__()


def test_a_log_cut_in_its_last_frame_opens_at_the_one_before(killed, tmp_path):
    files, models, offsets = killed
    start, stop = offsets[-2], offsets[-1]
    path = tmp_path / "book"
    lay(files, path)
    data = files[SEGMENT]
    payload_stop = start + FRAME_HEADER_BYTES + 70 * 64 + 32
    cuts = [(cut, b"") for cut in range(start, start + FRAME_HEADER_BYTES + 1)]
    for cut in range(start + 512, stop, 512):
        cuts += [(cut, rest * (len(data) - cut)) for rest in (b"", b"\0", b"\xff")]
    for cut, rest in cuts:
        (path / SEGMENT).write_bytes(data[:cut] + rest)
        expected = FRAMES if cut >= payload_stop and rest else FRAMES - 1
        with reopen(path, ("sync", "private"), read_only=True) as ledger:
            assert models[expected].state_hash() == ledger.state_hash(), (cut, rest[:1])
    for cut, rest in cuts[:: len(cuts) // 8]:
        lay(files, path)
        (path / SEGMENT).write_bytes(data[:cut] + rest)
        open_and_go_on(path, models, FRAMES if cut >= payload_stop and rest else FRAMES - 1)


def test_every_flipped_header_byte_of_the_last_frame_drops_that_frame_alone(killed, tmp_path):
    files, models, offsets = killed
    path = tmp_path / "book"
    lay(files, path)
    for within in range(FRAME_HEADER_BYTES):
        flip_bit(path / SEGMENT, offsets[-2] + within, within % 8)
        ledger = reopen(path, ("sync", "private"), read_only=True)
        assert models[FRAMES - 1].state_hash() == ledger.state_hash(), within
        ledger.close()
        flip_bit(path / SEGMENT, offsets[-2] + within, within % 8)
    flip_bit(path / SEGMENT, offsets[-2] + 20)
    open_and_go_on(path, models, FRAMES - 1)


def test_a_flip_in_the_middle_of_acknowledged_frames_is_an_error_with_its_place(killed, tmp_path):
    files, models, offsets = killed
    path = tmp_path / "book"
    lay(files, path)
    for within in (*range(0, FRAME_HEADER_BYTES, 7), 300, 2000, FRAME_HEADER_BYTES + 70 * 64 + 31):
        flip_bit(path / SEGMENT, offsets[2] + within)
        before = tree(path)
        for read_only in (True, False):
            with pytest.raises(CorruptLogError) as caught:
                reopen(path, ("sync", "private"), read_only=read_only)
            assert (path / SEGMENT, offsets[2]) == (caught.value.path, caught.value.offset)
            after = tree(path)
            assert before | {"lock": b""} == after | {"lock": b""}, "nothing is cut"
        flip_bit(path / SEGMENT, offsets[2] + within)
    flip_bit(path / SEGMENT, offsets[2] + 300)
    ledger = reopen(path, ("sync", "private"), salvage=True)
    assert models[2].state_hash() == ledger.state_hash()
    ledger.__del__()


def test_a_read_error_is_no_end_of_the_log(killed, tmp_path):
    files, models, offsets = killed
    path = tmp_path / "book"
    lay(files, path)

    class Unreadable(Files):
        def pread_into(self, fd, buffer, offset):
            if os.readlink(f"/proc/self/fd/{fd}").endswith(".seg") and offset <= offsets[3] < offset + len(buffer):
                raise OSError(5, "Input/output error")
            return super().pread_into(fd, buffer, offset)

    before = tree(path)
    with pytest.raises(OSError, match="Input/output"):
        reopen(path, ("sync", "private"), files=Unreadable())
    assert before | {"lock": b""} == tree(path) | {"lock": b""}
    open_and_go_on(path, models, FRAMES)


@pytest.mark.parametrize("tail", [b"", b"x" * 100, bytes(65536)])
def test_a_torn_frame_followed_by_a_segment_that_was_never_used_opens(killed, tmp_path, tail):
    files, models, offsets = killed
    path = tmp_path / "book"
    lay(files, path)
    os.truncate(path / SEGMENT, offsets[-2] + 1000)
    (path / "log" / "0000000002.seg").write_bytes(tail)
    open_and_go_on(path, models, FRAMES - 1)


def test_an_empty_log_file_is_an_error_or_an_empty_log_never_a_crash(killed, tmp_path):
    files, *_ = killed
    path = tmp_path / "book"
    for damage in (lambda: os.truncate(path / SEGMENT, 0), lambda: (path / SEGMENT).unlink()):
        lay(files, path)
        damage()
        try:
            ledger = reopen(path, ("sync", "private"), read_only=True)
        except CorruptLogError as error:
            assert SEGMENT.endswith(error.path.name)
        else:
            assert 0 == len(ledger)
            ledger.close()
