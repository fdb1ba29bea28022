"""The control block and the headers of shard files."""

import contextlib
import errno
import os
import random

import numpy as np
import pytest

from ledger.errors import (
    CorruptControlError,
    CorruptionError,
    FailStopError,
    LedgerNotFoundError,
    UnsupportedVersionError,
    WrongLedgerError,
)
from ledger.layout import CONTROL, CONTROL_COPY_BYTES, CONTROL_SHARD, FILE_HEADER, FORMAT_VERSION
from ledger.storage.control import Control
from ledger.storage.files import CONTROL_NAME, Files, shard_name
from tests.crash.disk import Disk, lay
from tests.crash.recorder import Recorder
from tests.faults import FaultyFiles, flip_bit, make_newer, patch, reseal, tree
from tests.model import U64

LEDGER = bytes(range(16))


def new_control(shards=4):
    table = np.zeros(shards, CONTROL_SHARD)
    table["slots"] = 1000 + np.arange(shards)
    table["positions"] = 8192
    table["used"] = np.arange(shards)
    table["generation"][1:2] = 2
    return Control(
        ledger_id=LEDGER, table=table, capacity=4000, index_load=0.75, hash_key=os.urandom(32), hash_name="é"
    )


def fields(control):
    skip = ("table", "_copy", "_failed", "_unsure")
    return {k: v for k, v in vars(control).items() if k not in skip} | {"table": control.table.tobytes()}


@pytest.mark.parametrize("shards", [1, 16, 4096])
def test_what_is_written_is_read(tmp_path, shards):
    control = new_control(shards)
    control.create(Files(), tmp_path)
    assert fields(control) == fields(Control.read(Files(), tmp_path))
    for step in range(3):
        control.epoch += 1
        control.supply = (1 << 100) + step
        control.live, control.checkpoint_lsn = 2**64 - 1, 2**63 - 4 + step
        control.clean = step == 1
        control.durability, control.storage = "sync", "memory"
        control.log_digest = bytes([step]) * 16
        control.log_segment_first, control.log_segment_bytes = 77, 65536
        control.write(Files(), tmp_path)
        assert fields(control) == fields(Control.read(Files(), tmp_path))
        assert control.sequence == 2 + step


@pytest.mark.parametrize("writes", [1, 2])
def test_a_torn_copy_leaves_the_other_one(tmp_path, writes):
    control = new_control()
    control.create(Files(), tmp_path)
    for step in range(writes + 1):
        control.epoch = step
        control.write(Files(), tmp_path)
    offset = (writes + 1) % 2 * CONTROL_COPY_BYTES
    for at in (*range(0, CONTROL.itemsize, 3), CONTROL.itemsize + 5):
        flip_bit(tmp_path / CONTROL_NAME, offset + at, at % 8)
        assert writes - 1 == Control.read(Files(), tmp_path).epoch
        flip_bit(tmp_path / CONTROL_NAME, offset + at, at % 8)
    assert writes == Control.read(Files(), tmp_path).epoch


def test_every_power_cut_leaves_the_old_block_or_the_new_one(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    control = new_control()
    control.create(Files(), home)
    files = Recorder(home, delay_s=0)
    control = Control.read(files, home)
    for epoch in range(1, 5):
        control.epoch = epoch
        control.write(files, home)
        files.mark("acknowledged", epoch)
    disk, choose, acknowledged = Disk(files.start), random.Random(1), 0
    for op in files.ops:
        disk.do(op)
        acknowledged = op.b if op.kind == "mark" else acknowledged
        for _ in range(10):
            lay(disk.survive(choose), tmp_path / "image")
            assert acknowledged <= Control.read(Files(), tmp_path / "image").epoch <= acknowledged + 1


def test_a_block_that_a_failed_sync_left_in_memory_is_durable_before_the_one_before_it_is_written_over(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    files = Recorder(home, delay_s=0)
    control = new_control()
    control.create(files, home)
    for epoch in range(1, 4):
        control.epoch, control.table["used"] = epoch, epoch  # a table in another sector, so that a torn copy shows
        files.fail_at = files.syncs if epoch == 3 else None
        with pytest.raises(FailStopError) if epoch == 3 else contextlib.nullcontext():
            control.write(files, home)
    again = Control.read(files, home)
    assert 3 == again.epoch, "the page cache still has it"
    again.epoch, again.table["used"] = 4, 4
    before = len(files.ops)
    again.write(files, home)
    disk, choose = Disk(files.start), random.Random(1)
    for number, op in enumerate(files.ops):
        disk.do(op)
        for _ in range(40 if number >= before else 0):
            lay(disk.survive(choose), tmp_path / "image")
            assert 2 <= Control.read(Files(), tmp_path / "image").epoch


def test_no_ledger_is_no_damage(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(LedgerNotFoundError):
            Control.read(Files(), path)


@pytest.mark.parametrize("data", [b"", b"x" * 10, bytes(600_000), os.urandom(600_000)], ids=["0", "10", "0s", "?"])
def test_two_bad_copies_are_an_error(tmp_path, data):
    (tmp_path / CONTROL_NAME).write_bytes(data)
    with pytest.raises(CorruptControlError) as caught:
        Control.read(Files(), tmp_path)
    assert caught.value.path == tmp_path / CONTROL_NAME


@pytest.mark.parametrize("copy", [0, 1])
def test_a_newer_version_is_told_apart_from_damage_and_not_touched(tmp_path, copy):
    new_control().create(Files(), tmp_path)
    make_newer(tmp_path / CONTROL_NAME, copy * CONTROL_COPY_BYTES, CONTROL)
    before = tree(tmp_path)
    with pytest.raises(UnsupportedVersionError) as caught:
        Control.read(Files(), tmp_path)
    assert (FORMAT_VERSION + 1, FORMAT_VERSION) == (caught.value.found, caught.value.supported)
    assert before == tree(tmp_path)


def test_a_shard_count_beyond_the_file_is_damage(tmp_path):
    def grow(header):
        header["shards"] = 2**32 - 1

    new_control().create(Files(), tmp_path)
    for copy in (0, 1):
        reseal(tmp_path / CONTROL_NAME, copy * CONTROL_COPY_BYTES, CONTROL, grow)
    with pytest.raises(CorruptControlError):
        Control.read(Files(), tmp_path)


COUNTERS = ("sequence", "epoch", "checkpoint_lsn", "totals_lsn")
BEYOND = [(name, value) for name in COUNTERS for value in (U64 - 1, U64 // 2)]
BEYOND += [("capacity", 0), ("capacity", U64 - 1), ("index_load", 0.96), ("index_load", float("nan"))]


@pytest.mark.parametrize(("field", "value"), BEYOND)
def test_numbers_that_no_ledger_has_are_damage_and_never_counted_on(tmp_path, field, value):
    def change(header):
        header[field] = value

    control = new_control()
    control.create(Files(), tmp_path)
    control.write(Files(), tmp_path)
    reseal(tmp_path / CONTROL_NAME, CONTROL_COPY_BYTES, CONTROL, change)
    assert 1 == Control.read(Files(), tmp_path).sequence, "the copy before it counts"
    reseal(tmp_path / CONTROL_NAME, 0, CONTROL, change)
    with pytest.raises(CorruptControlError) as caught:
        Control.read(Files(), tmp_path)
    assert tmp_path / CONTROL_NAME == caught.value.path


def test_a_copy_that_cannot_be_read_is_no_damage(tmp_path):
    new_control().create(Files(), tmp_path)
    files = FaultyFiles()
    files.fail("pread", skip=1)
    with pytest.raises(OSError, match="Input/output"):
        Control.read(files, tmp_path)


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_a_failed_write_is_not_tried_again(tmp_path, call):
    files = FaultyFiles()
    control = new_control()
    control.create(files, tmp_path)
    files.fail(call, errno.EIO)
    for _ in range(2):
        with pytest.raises(FailStopError) as caught:
            control.write(files, tmp_path)
        assert caught.value.__cause__.errno == errno.EIO
    assert 1 == files.attempts("fdatasync", CONTROL_NAME) + (call == "pwrite")


# ---------------------------------------------------------------- shard files
def make_shard_file(tmp_path):
    control = new_control()
    path = tmp_path / shard_name(1, 2)
    size = control.file_bytes(1, 0)
    path.write_bytes(control.file_header(1, 0).ljust(size, b"\0"))
    return control, path, size


def open_shard(control, path, size, shard=1, which=0):
    Files().close(control.open_checked(Files(), path, shard, which, size, False)[0])


def test_the_header_of_a_shard_file_is_checked_against_its_place(tmp_path):
    control, path, size = make_shard_file(tmp_path)
    open_shard(control, path, size)
    for shard in (0, 2):
        with pytest.raises(WrongLedgerError):
            open_shard(control, path, size, shard=shard)
    with pytest.raises(CorruptionError):
        open_shard(control, path, size, which=1)
    control.ledger_id = bytes(16)
    with pytest.raises(WrongLedgerError, match="ledger_id"):
        open_shard(control, path, size)


def test_every_flipped_byte_of_a_shard_header_is_damage(tmp_path):
    control, path, size = make_shard_file(tmp_path)
    for offset in range(FILE_HEADER.itemsize):
        flip_bit(path, offset, 7)
        with pytest.raises(CorruptionError):
            open_shard(control, path, size)
        flip_bit(path, offset, 7)


def test_a_missing_short_or_newer_shard_file_is_named(tmp_path):
    control, path, size = make_shard_file(tmp_path)
    make_newer(path, 0, FILE_HEADER)
    with pytest.raises(UnsupportedVersionError):
        open_shard(control, path, size)
    patch(path, 0, control.file_header(1, 0))
    os.truncate(path, size - 1)
    for cut in (size - 1, 10, 0):
        os.truncate(path, cut)
        with pytest.raises(CorruptionError, match=f"{cut} bytes"):
            open_shard(control, path, size)
        assert path.stat().st_size == cut
    path.unlink()
    with pytest.raises(CorruptionError, match="missing"):
        open_shard(control, path, size)


def test_seeds_differ_by_ledger_shard_and_generation():
    control, other = new_control(), new_control()
    other.ledger_id = bytes(16)
    seeds = {c.seed(shard) for c in (control, other) for shard in range(4)}
    control.table["generation"] += 1
    assert 12 == len(seeds | {control.seed(shard) for shard in range(4)})
