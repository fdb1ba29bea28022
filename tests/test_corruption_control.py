"""Damage to the control block and to the marker of a clean close."""

from __future__ import annotations

import os

import pytest

from ledger import CorruptControlError, CorruptionError, GeometricLedger
from ledger.layout import CONTROL, CONTROL_COPY_BYTES
from tests.crash.disk import lay
from tests.damaged import make, reopen
from tests.faults import flip_bit, tree
from tests.model import make_accounts, reopen_options, small_options


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
        lay(files, path)
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
    ledger.close() if close else ledger.__del__()
    (path / "control.bin").write_bytes(old[0])
    (path / ".clean_shutdown").write_bytes(old[1])
    for read_only in (True, False):
        with pytest.raises(CorruptionError):
            reopen(path, mode, read_only=read_only)


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
