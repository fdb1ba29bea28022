"""Damage to files that a killed writer had mapped, or that the power left (storage "shared")."""

from __future__ import annotations

import os

import pytest

from ledger import CorruptionError, CorruptRecordError, GeometricLedger, SalvageNeededError
from ledger.layout import BLOCK_BYTES, CELL_A, CELL_LSN, RECORD_BYTES
from tests.crash.disk import lay
from tests.damaged import make, reopen
from tests.faults import flip_bit, lose_power, patch, tree
from tests.model import assert_equal, make_accounts, small_options


def test_power_loss_in_mapped_files_asks_for_a_salvage_which_keeps_what_is_whole(tmp_path):
    path = tmp_path / "book"
    mode = ("msync", "shared")
    models = make(path, mode, close=False)
    lose_power(path)
    flip_bit(path / "shard_001.bin", BLOCK_BYTES + CELL_A * 8)
    for options in (mode, ("sync", "private")):
        for read_only in (True, False):
            with pytest.raises(SalvageNeededError):
                reopen(path, options, read_only=read_only)
    ledger = reopen(path, mode, salvage=True)
    assert (True, 1) == (ledger.recovery.salvaged, ledger.recovery.cells_broken)
    assert len(models[-1].accounts) - 1 == len(ledger)
    assert [] == ledger.verify().faults
    ledger.update_batch(make_accounts(4, 60))
    ledger.close()
    with reopen(path, mode) as ledger:
        assert ledger.verify().ok


RECORD_DAMAGE = {
    "a flipped balance": lambda path, at: flip_bit(path, at + CELL_A * 8),
    "a flipped key": lambda path, at: flip_bit(path, at + 5),
    "zeros": lambda path, at: patch(path, at, bytes(RECORD_BYTES)),
    "the key of another slot": lambda path, at: patch(path, at, path.read_bytes()[at - RECORD_BYTES :][:32]),
    "noise": lambda path, at: patch(path, at, os.urandom(RECORD_BYTES)),
}


@pytest.mark.parametrize("damage", RECORD_DAMAGE)
@pytest.mark.parametrize("lost_power", [True, False], ids=["power lost", "killed"])
def test_a_salvage_gives_up_damaged_records_alone_and_leaves_a_whole_ledger(tmp_path, damage, lost_power):
    path, mode = tmp_path / "book", ("msync", "shared")
    model = make(path, mode, close=False)[-1]
    for slot in (1, 2, 7):
        at = BLOCK_BYTES + slot * RECORD_BYTES
        model.update_batch(make_accounts(0, 0), [(path / "shard_001.bin").read_bytes()[at : at + 32]])
        RECORD_DAMAGE[damage](path / "shard_001.bin", at)
    if lost_power:
        lose_power(path)
    for read_only in (True, False):
        with pytest.raises(SalvageNeededError if lost_power else CorruptionError):
            reopen(path, mode)
        with reopen(path, mode, salvage=True, read_only=read_only) as ledger:
            model.lsn = ledger.verify().lsn
            assert_equal(model, ledger)
    with reopen(path, mode) as ledger:
        model.update_batch(make_accounts(4, 60))
        ledger.update_batch(make_accounts(4, 60))
        assert_equal(model, ledger)


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
    lay(before, path)
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
        lay(before, path)
    with reopen(path, kind) as ledger:
        assert 60 == len(ledger)
