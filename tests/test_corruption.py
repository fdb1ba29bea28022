"""Damage on disk: expect the named error or a repair, never a wrong answer."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from ledger import (
    CorruptControlError,
    CorruptionError,
    CorruptLogError,
    CorruptRecordError,
    GeometricLedger,
    LedgerError,
    SalvageNeededError,
    UnsupportedVersionError,
    WrongLedgerError,
)
from ledger.layout import (
    BLOCK_BYTES,
    CELL_A,
    CELL_LSN,
    CONTROL,
    CONTROL_COPY_BYTES,
    FILE_HEADER,
    FORMAT_VERSION,
    FRAME_HEADER,
    FRAME_HEADER_BYTES,
    RECORD_BYTES,
    SEGMENT_HEADER,
)
from ledger.storage.files import Files
from tests.faults import flip_bit, patch, reseal, tree
from tests.model import Model, assert_equal, make_accounts, make_key, make_keys, reopen_options, small_options

SEGMENT = "log/0000000001.seg"
FRAMES = 6


def restore(path, files):
    """Put the files of a `tree` back."""
    shutil.rmtree(path)
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)


def make(path, mode=("none", "private"), *, n=60, seeds=(1,), close=True, **changes):
    """Make a ledger by some batches; returns the models after each batch."""
    ledger = GeometricLedger.open(path, small_options(*mode, **{"hash_key": b"k" * 32} | changes))
    models = [Model()]
    for seed in seeds:
        models.append(models[-1].copy())
        models[-1].update_batch(make_accounts(seed, n), make_keys([seed]))
        ledger.update_batch(make_accounts(seed, n), make_keys([seed]))
    ledger.close() if close else ledger.__del__()
    return models


def reopen(path, mode=("none", "private"), **arguments):
    return GeometricLedger.open(path, reopen_options(*mode), **arguments)


def newer(header):
    header["version"] = FORMAT_VERSION + 1


# ---------------------------------------------------------------- the log
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
    path.mkdir()
    restore(path, files)
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
        restore(path, files)
        (path / SEGMENT).write_bytes(data[:cut] + rest)
        open_and_go_on(path, models, FRAMES if cut >= payload_stop and rest else FRAMES - 1)


def test_every_flipped_header_byte_of_the_last_frame_drops_that_frame_alone(killed, tmp_path):
    files, models, offsets = killed
    path = tmp_path / "book"
    path.mkdir()
    restore(path, files)
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
    path.mkdir()
    restore(path, files)
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
    path.mkdir()
    restore(path, files)

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
    path.mkdir()
    restore(path, files)
    os.truncate(path / SEGMENT, offsets[-2] + 1000)
    (path / "log" / "0000000002.seg").write_bytes(tail)
    open_and_go_on(path, models, FRAMES - 1)


def test_an_empty_log_file_is_an_error_or_an_empty_log_never_a_crash(killed, tmp_path):
    files, models, _ = killed
    path = tmp_path / "book"
    path.mkdir()
    for damage in (lambda: os.truncate(path / SEGMENT, 0), lambda: (path / SEGMENT).unlink()):
        restore(path, files)
        damage()
        try:
            ledger = reopen(path, ("sync", "private"), read_only=True)
        except CorruptLogError as error:
            assert SEGMENT.endswith(error.path.name)
        else:
            assert 0 == len(ledger)
            ledger.close()
    assert models


# ---------------------------------------------------------------- the control block and the marker
def test_one_damaged_control_copy_is_no_loss_and_two_are_an_error(tmp_path):
    path = tmp_path / "book"
    models = make(path, ("sync", "private"), seeds=(1, 2))
    files = tree(path)
    for copy in (0, 1):
        for at in range(0, CONTROL.itemsize, 37):
            flip_bit(path / "control.bin", copy * CONTROL_COPY_BYTES + at)
            ledger = reopen(path, ("sync", "private"), read_only=True)
            assert models[-1].state_hash() == ledger.state_hash()
            ledger.close()
            flip_bit(path / "control.bin", copy * CONTROL_COPY_BYTES + at)
    for damage in (
        lambda: [flip_bit(path / "control.bin", copy * CONTROL_COPY_BYTES + 99) for copy in (0, 1)],
        lambda: os.truncate(path / "control.bin", 0),
        lambda: os.truncate(path / "control.bin", 100),
    ):
        restore(path, files)
        damage()
        before = tree(path)
        for arguments in ({}, {"read_only": True}, {"create": False}):
            with pytest.raises(CorruptControlError):
                reopen(path, ("sync", "private"), **arguments)
        assert before | {"lock": b""} == tree(path) | {"lock": b""}


@pytest.mark.parametrize(
    ("mode", "close"),
    [
        (("none", "private"), True), (("sync", "private"), True), (("msync", "shared"), True),
        (("sync", "private"), False), (("msync", "shared"), False),
    ],
)  # fmt: skip
def test_a_lost_control_block_is_an_error_and_nothing_is_made_over_the_data(tmp_path, mode, close):
    path = tmp_path / "book"
    make(path, mode, close=close)
    (path / "control.bin").unlink()
    before = tree(path)
    for options in (small_options(*mode), reopen_options(*mode)):
        for arguments in ({}, {"read_only": True}, {"create": False}, {"salvage": True}):
            with pytest.raises(CorruptControlError, match="missing") as caught:
                GeometricLedger.open(path, options, **arguments)
            assert path / "control.bin" == caught.value.path
    assert before | {"lock": b""} == tree(path) | {"lock": b""}


def test_a_clean_marker_of_another_time_is_not_believed(tmp_path):
    path = tmp_path / "book"
    mode = ("sync", "private")
    make(path, mode)
    old = (path / ".clean_shutdown").read_bytes()
    ledger = reopen(path, mode)
    ledger.update_batch(make_accounts(5, 30))
    digest = ledger.state_hash()
    ledger.__del__()
    (path / ".clean_shutdown").write_bytes(old)
    ledger = reopen(path, mode)
    assert (False, digest) == (ledger.recovery.clean, ledger.state_hash())
    ledger.close()
    for data in (b"", old, b"\xff" * len(old), bytes(len(old)), b"x"):
        (path / ".clean_shutdown").write_bytes(data)
        ledger = reopen(path, mode)
        assert (False, digest) == (ledger.recovery.clean, ledger.state_hash())
        ledger.close()


@pytest.mark.parametrize(
    ("name", "offset", "dtype"),
    [
        ("control.bin", 0, CONTROL), ("control.bin", CONTROL_COPY_BYTES, CONTROL), ("shard_003.bin", 0, FILE_HEADER),
        ("index_000.bin", 0, FILE_HEADER), (SEGMENT, 0, SEGMENT_HEADER), (SEGMENT, BLOCK_BYTES, FRAME_HEADER),
    ],
)  # fmt: skip
def test_a_newer_version_is_told_apart_from_damage_and_no_byte_is_changed(killed, tmp_path, name, offset, dtype):
    files, _, _ = killed
    path = tmp_path / "book"
    path.mkdir()
    restore(path, files)
    if name.startswith(("shard", "index")):
        reopen(path, ("sync", "private")).close()
    reseal(path / name, offset, dtype, newer)
    before = tree(path)
    for arguments in ({"read_only": True}, {}, {"create": False}, {"salvage": True}):
        with pytest.raises(UnsupportedVersionError) as caught:
            reopen(path, ("sync", "private"), **arguments)
        assert (FORMAT_VERSION + 1, FORMAT_VERSION, offset, path / name) == (
            caught.value.found, caught.value.supported, caught.value.offset, caught.value.path,
        )  # fmt: skip
        assert before | {"lock": b""} == tree(path) | {"lock": b""}


# ---------------------------------------------------------------- index files
def zero_contents(path):
    patch(path, BLOCK_BYTES, bytes(path.stat().st_size - BLOCK_BYTES))


INDEX_DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: os.truncate(path, 0),
    "short": lambda path: os.truncate(path, 5000),
    "only a header": lambda path: os.truncate(path, BLOCK_BYTES),
    "flipped entry": lambda path: flip_bit(path, BLOCK_BYTES + 40),
    "flipped header": lambda path: flip_bit(path, 12),
    "all zeros": zero_contents,
    "noise": lambda path: path.write_bytes(os.urandom(path.stat().st_size)),
}


@pytest.mark.parametrize("damage", INDEX_DAMAGE)
@pytest.mark.parametrize(
    "mode", [("none", "private"), ("none", "memory"), ("msync", "shared"), ("sync", "private")], ids="-".join
)
def test_an_index_that_is_lost_or_damaged_is_made_again_bit_for_bit(tmp_path, mode, damage):
    path = tmp_path / "book"
    models = make(path, mode, n=250, seeds=(1, 2))
    files = tree(path)
    for name in ("index_000.bin", "index_003.bin"):
        INDEX_DAMAGE[damage](path / name)
    told = []
    with reopen(path, mode, read_only=True) as ledger:
        faults = ledger.verify().faults
        assert [] == faults or (2, damage in ("flipped entry", "all zeros")) == (len(faults), True)
        assert_equal(models[-1], ledger)
    with reopen(path, mode, read_only=True) as ledger:
        assert all(models[-1].accounts.get(key) == ledger.get(key) for key in models[-1].slots)
    with reopen(path, mode, progress=lambda *step: told.append(step)) as ledger:
        assert ledger.get_batch(make_keys(range(250)))[1].tolist().count(True) == len(models[-1].accounts)
        assert_equal(models[-1], ledger)
    assert told or damage in ("flipped entry", "all zeros"), "a rebuild at opening says how far it is"
    after = tree(path)
    for name in ("index_000.bin", "index_003.bin"):
        assert files[name] == after[name]


def test_a_stale_index_is_made_again(tmp_path):
    path = tmp_path / "book"
    make(path, n=40)
    stale = {name: data for name, data in tree(path).items() if name.startswith("index")}
    with reopen(path) as ledger:
        ledger.update_batch(make_accounts(2, 200))
        digest = ledger.state_hash()
    right = tree(path)
    for name, data in stale.items():
        (path / name).write_bytes(data)
    for number in range(195, 200):
        with reopen(path, read_only=True) as ledger:
            assert ledger.get(make_key(number)) is not None
    with reopen(path) as ledger:
        assert ledger.get_batch(make_keys(range(200)))[1].all()
        assert digest == ledger.state_hash()
    for name in stale:
        assert right[name] == tree(path)[name]


# ---------------------------------------------------------------- shard files
def reads(ledger, number):
    """Yield the ways to read an account, or everything."""
    key = make_key(number)
    yield lambda: ledger.get(key)
    yield lambda: ledger.get_batch([key])[0][0]["balance"]
    yield lambda: list(ledger)
    yield ledger.state_hash


def assert_every_flip_is_seen(tmp_path, offsets, seeds=(1,)):
    """Flip a bit at each of `offsets` of record 0: every way of reading must raise, other records be there."""
    path = tmp_path / "book"
    make(path, n=20, seeds=seeds, shards=1)
    unseen = []
    for offset in offsets:
        flip_bit(path / "shard_000.bin", BLOCK_BYTES + offset, offset % 7)
        with reopen(path, read_only=True) as ledger:
            for number, read in enumerate(reads(ledger, 0)):
                try:
                    read()
                    unseen.append((offset, ("get", "get_batch", "iteration", "state_hash")[number]))
                except CorruptRecordError as error:
                    assert (0, 0, path / "shard_000.bin") == (error.shard, error.slot, error.path)
            assert ledger.get(make_key(7)) is not None
            assert not ledger.verify().ok
        flip_bit(path / "shard_000.bin", BLOCK_BYTES + offset, offset % 7)
    assert [] == unseen


def test_every_flipped_byte_of_a_cell_but_its_lsn_is_an_error_on_every_read(tmp_path):
    offsets = [CELL_A * 8 + at for at in range(48) if not CELL_LSN * 8 <= at < CELL_LSN * 8 + 8]
    assert_every_flip_is_seen(tmp_path, offsets)


def test_every_flipped_byte_of_a_key_is_an_error_on_every_read(tmp_path):
    assert_every_flip_is_seen(tmp_path, range(32))


@pytest.mark.parametrize("seeds", [(1,), (1, 2), (1, 2, 3)])
def test_every_flipped_byte_of_an_lsn_is_an_error_on_every_read(tmp_path, seeds):
    newest = CELL_A * 8 if len(seeds) % 2 else CELL_A * 8 + 48
    assert_every_flip_is_seen(tmp_path, range(newest + CELL_LSN * 8, newest + CELL_LSN * 8 + 8), seeds)


@pytest.mark.parametrize("shard", [0, 3])
@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES, BLOCK_BYTES + 10])
def test_a_short_or_missing_shard_file_is_named_and_not_made_again(tmp_path, shard, size):
    path = tmp_path / "book"
    make(path)
    target = path / f"shard_{shard:03d}.bin"
    for damage in (lambda: os.truncate(target, size), target.unlink):
        damage()
        before = tree(path)
        for read_only in (True, False):
            with pytest.raises(CorruptionError) as caught:
                reopen(path, read_only=read_only)
            assert target == caught.value.path
            assert before | {"lock": b""} == tree(path) | {"lock": b""}


def test_every_flipped_byte_of_a_shard_header_is_named(tmp_path):
    path = tmp_path / "book"
    make(path)
    for at in range(0, FILE_HEADER.itemsize, 3):
        flip_bit(path / "shard_001.bin", at)
        with pytest.raises(CorruptionError) as caught:
            reopen(path)
        assert path / "shard_001.bin" == caught.value.path
        flip_bit(path / "shard_001.bin", at)
    reopen(path).close()


@pytest.mark.parametrize("name", ["shard_000.bin", "index_000.bin", SEGMENT])
def test_a_file_of_another_ledger_or_another_place_is_named(tmp_path, name):
    path, other = tmp_path / "book", tmp_path / "other"
    mode = ("sync", "private")
    for folder in (path, other):
        make(folder, mode, close=name != SEGMENT)
    sources = [other / name] + ([path / name.replace("000", "001")] if name != SEGMENT else [])
    right = (path / name).read_bytes()
    for source in sources:
        (path / name).write_bytes(source.read_bytes())
        before = tree(path)
        with pytest.raises(WrongLedgerError) as caught:
            reopen(path, mode)
        assert path / name == caught.value.path
        assert before | {"lock": b""} == tree(path) | {"lock": b""}
        (path / name).write_bytes(right)


def test_an_old_shard_file_of_the_same_ledger_is_found_out(tmp_path):
    path = tmp_path / "book"
    make(path, n=60)
    old = (path / "shard_000.bin").read_bytes()
    with reopen(path) as ledger:
        ledger.update_batch(make_accounts(2, 200))
    new = (path / "shard_000.bin").read_bytes()
    (path / "shard_000.bin").write_bytes(old)
    for read_only in (True, False):
        with pytest.raises(CorruptionError, match="older copy") as caught:
            reopen(path, read_only=read_only)
        assert path / "shard_000.bin" == caught.value.path
    (path / "shard_000.bin").write_bytes(new)
    reopen(path).close()


@pytest.mark.parametrize("mode", [("none", "private"), ("sync", "private")], ids="-".join)
@pytest.mark.parametrize("close", [True, False])
def test_an_old_control_block_is_found_out(tmp_path, mode, close):
    path = tmp_path / "book"
    make(path, mode, n=60)
    old = (path / "control.bin").read_bytes(), (path / ".clean_shutdown").read_bytes()
    ledger = reopen(path, mode)
    for seed in range(2, 6):
        ledger.update_batch(make_accounts(seed, 200))
        ledger.snapshot()
    digest = ledger.state_hash()
    ledger.close() if close else ledger.__del__()
    (path / "control.bin").write_bytes(old[0])
    (path / ".clean_shutdown").write_bytes(old[1])
    for read_only in (True, False):
        with pytest.raises(CorruptionError):
            reopen(path, mode, read_only=read_only)
    assert digest


# ---------------------------------------------------------------- power loss and journals
def test_power_loss_in_mapped_files_asks_for_a_salvage_which_keeps_what_is_whole(tmp_path):
    path = tmp_path / "book"
    mode = ("msync", "shared")
    models = make(path, mode, close=False)
    for copy in (0, 1):
        reseal(path / "control.bin", copy * CONTROL_COPY_BYTES, CONTROL, lambda header: header["boot_id"].fill(7))
    flip_bit(path / "shard_001.bin", BLOCK_BYTES + CELL_A * 8)
    for options in (mode, ("sync", "private")):
        for read_only in (True, False):
            with pytest.raises(SalvageNeededError):
                reopen(path, options, read_only=read_only)
    ledger = reopen(path, mode, salvage=True)
    assert (True, 1) == (ledger.recovery.salvaged, ledger.recovery.cells_broken)
    assert len(models[-1].accounts) - 1 == len(ledger)
    assert all("1 slots without cell" in fault for fault in ledger.verify().faults)
    ledger.update_batch(make_accounts(4, 60))
    ledger.close()
    with reopen(path, mode) as ledger:
        assert ledger.verify().ok


@pytest.mark.parametrize("kind", [("msync", "shared"), ("none", "shared")], ids="-".join)
@pytest.mark.parametrize(
    ("byte", "bit"), [(0, 0), (CELL_LSN * 8 + 3, 0), (CELL_LSN * 8 + 7, 7)], ids=["balance", "LSN far ahead", "mark"]
)
def test_a_damaged_cell_in_killed_mapped_files_is_no_batch_in_flight(tmp_path, kind, byte, bit):
    path = tmp_path / "book"
    models = make(path, kind, seeds=(1, 2, 3), close=False)
    before = tree(path)
    flip_bit(path / "shard_001.bin", BLOCK_BYTES + CELL_A * 8 + byte, bit)
    damaged = tree(path)
    for read_only in (True, False):
        with pytest.raises(CorruptRecordError) as caught:
            reopen(path, kind, read_only=read_only)
        assert (1, path / "shard_001.bin") == (caught.value.shard, caught.value.path)
        assert damaged | {"lock": b""} == tree(path) | {"lock": b""}, "nothing is rolled back"
    restore(path, before)
    with reopen(path, kind) as ledger:
        assert_equal(models[-1], ledger)


@pytest.mark.parametrize("kind", [("msync", "shared"), ("none", "shared")], ids="-".join)
def test_zeros_over_records_of_the_last_checkpoint_in_killed_mapped_files_are_found_out(tmp_path, kind):
    path = tmp_path / "book"
    ledger = GeometricLedger.open(path, small_options(*kind))
    ledger.update_batch(make_accounts(1, 60))
    ledger.snapshot()
    ledger.update_batch(make_accounts(2, 60))
    used = ledger.stats().slots_used[1]
    ledger.__del__()
    for first, slots in ((0, 1), (used - 1, 1), (0, used)):
        before = tree(path)
        patch(path / "shard_001.bin", BLOCK_BYTES + first * RECORD_BYTES, bytes(slots * RECORD_BYTES))
        for read_only in (True, False):
            with pytest.raises(CorruptRecordError, match=f"{slots} slots lost theirs") as caught:
                reopen(path, kind, read_only=read_only)
            assert (1, path / "shard_001.bin") == (caught.value.shard, caught.value.path)
        restore(path, before)
    with reopen(path, kind) as ledger:
        assert 60 == len(ledger)


class Stop(BaseException):
    """The end of the process, as far as the disk can tell."""


class StoppingFiles(Files):
    """Do nothing from the n-th change of the disk on, as after a kill."""

    def __init__(self, at=None):
        self.at, self.changes = at, 0

    def change(self):
        if self.at is not None and self.changes >= self.at:
            raise Stop
        self.changes += 1


def _stopping(name):
    def call(self, *arguments, **named):
        self.change()
        return getattr(Files, name)(self, *arguments, **named)

    return call


for _name in (
    "pwrite",
    "fdatasync",
    "fsync",
    "replace",
    "unlink",
    "mkdir",
    "preallocate",
    "start_write",
    "sync_directory",
):
    setattr(StoppingFiles, _name, _stopping(_name))


def abandon(ledger):
    """Let go of a handle whose disk has stopped."""
    ledger._files.at = None
    ledger.__del__()


@pytest.mark.parametrize(
    ("kind", "last"),
    [(("none", "private"), "snapshot"), (("none", "private"), "close"), (("none", "memory"), "snapshot")],
)
def test_a_journal_leaves_the_snapshot_before_or_the_new_one_wherever_it_stops(tmp_path, kind, last):
    path = tmp_path / "book"
    make(path, kind, n=60)
    files = tree(path)
    old, new = Model(), Model()
    for seed in (1, 2):
        new.update_batch(make_accounts(seed, 60), make_keys([seed]))
        old = old if seed == 2 else new.copy()
    new.update_batch(make_accounts(3, 60, first=60))
    seen = set()
    for at in range(200):
        restore(path, files)
        disk = StoppingFiles()
        ledger = GeometricLedger.open(path, reopen_options(*kind), files=disk)
        ledger.update_batch(make_accounts(2, 60), make_keys([2]))
        ledger.update_batch(make_accounts(3, 60, first=60))
        disk.at = disk.changes + at
        try:
            ledger.snapshot() if last == "snapshot" else ledger.close()
        except Stop:
            pass
        else:
            break
        finally:
            abandon(ledger)
        for again in (("none", "memory"), ("none", "private"), ("sync", "private")):
            with reopen(path, again, read_only=True) as ledger:
                assert ledger.state_hash() in (old.state_hash(), new.state_hash()), at
        stopped = StoppingFiles(at % 25)
        try:
            abandon(GeometricLedger.open(path, reopen_options(*kind), files=stopped))
        except Stop:
            pass
        with reopen(path, kind) as ledger:
            assert ledger.state_hash() in (old.state_hash(), new.state_hash()), at
            assert ledger.verify().ok
            seen.add(ledger.state_hash())
    assert 10 < at < 199
    assert {old.state_hash(), new.state_hash()} == seen


@pytest.mark.parametrize("data", [b"", os.urandom(10_000), "prefix"], ids=["empty", "noise", "prefix"])
def test_an_unfinished_journal_is_ignored_and_a_damaged_finished_one_is_named(tmp_path, data):
    path = tmp_path / "book"
    models = make(path)
    if data == "prefix":
        data = (path / "shard_000.bin").read_bytes()[:5000]
    ledger = reopen(path)
    ledger.__del__()
    (path / "journal.bin.tmp").write_bytes(data)
    ledger = reopen(path)
    assert models[-1].state_hash() == ledger.state_hash()
    ledger.update_batch(make_accounts(5, 10))
    ledger.snapshot()
    ledger.close()
    ledger = reopen(path)
    ledger.__del__()
    assert not (path / "journal.bin.tmp").exists()
    (path / "journal.bin").write_bytes(data)
    with pytest.raises(CorruptionError) as caught:
        reopen(path)
    assert path / "journal.bin" == caught.value.path


@pytest.mark.parametrize(
    "first", [("none", "private"), ("msync", "shared"), ("async", "memory"), ("sync", "private")], ids="-".join
)
@pytest.mark.parametrize("second", [("none", "memory"), ("none", "shared"), ("sync", "private")], ids="-".join)
def test_an_opening_that_stops_anywhere_leaves_what_it_began_with(tmp_path, first, second):
    path = tmp_path / "book"
    models = make(path, first, seeds=(1, 2, 3), close=False)
    expected = models[0 if first[0] == "none" else -1].state_hash()
    for at in range(300):
        try:
            abandon(GeometricLedger.open(path, reopen_options(*second), files=StoppingFiles(at)))
        except Stop:
            continue
        break
    assert 3 < at < 299
    with reopen(path, second) as ledger:
        assert expected == ledger.state_hash()
        assert ledger.verify().ok


def test_damage_is_always_an_error_of_the_tree(tmp_path):
    path = tmp_path / "book"
    models = make(path, ("sync", "private"), seeds=(1, 2), close=False)
    files = tree(path)
    choose = np.random.default_rng(1)
    truths = {model.state_hash() for model in models}
    for _ in range(60):
        restore(path, files)
        name = str(choose.choice(sorted(set(files) - {"lock"})))
        size = len(files[name])
        at = int(choose.integers(0, min(size, 20_000)))
        patch(path / name, at, os.urandom(int(min(size - at, choose.integers(1, 300)))))
        try:
            with reopen(path, ("sync", "private")) as ledger:
                assert ledger.state_hash() in truths
        except LedgerError:
            pass
    assert RECORD_BYTES == 128
