"""What a recovery reads ahead, learns, and refuses to believe."""

from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import pytest

from ledger import CorruptRecordError, GeometricLedger
from ledger.layout import BLOCK_BYTES, RECORD_BYTES, STATE_APPLIED, STATE_LIVE
from ledger.storage.mapping import Reservation
from tests.faults import tree
from tests.model import Model, assert_equal, make_accounts, make_keys, reopen_options, small_options

MAPPED = [("none", "shared"), ("msync", "shared")]


def killed(path, kind, batches, **changes):
    """Make a ledger as a kill leaves it; returns what it holds."""
    model = Model()
    ledger = GeometricLedger.open(path, small_options(*kind, **changes))
    for seed in range(batches):
        batch = make_accounts(seed, 60, first=20 * seed), make_keys([seed])
        ledger.update_batch(*batch)
        model.update_batch(*batch)
    ledger.__del__()
    return model


@pytest.mark.parametrize("storage", ["private", "memory"])
@pytest.mark.parametrize("cold", [True, False], ids=["cold", "warm"])
def test_a_cold_recovery_asks_for_the_blocks_of_a_frame_before_it_is_applied(tmp_path, cold, storage):
    model = killed(tmp_path / "book", ("sync", storage), 9)
    with GeometricLedger.open(tmp_path / "book", reopen_options("sync", storage)) as ledger:
        ledger.snapshot()
        for seed in (50, 51):
            batch = make_accounts(seed, 70, first=30 * seed - 1480), make_keys([seed])
            ledger.update_batch(*batch)
            model.update_batch(*batch)
        ledger.__del__()
    with mock.patch.object(Reservation, "resident", lambda *_: not cold):
        with GeometricLedger.open(tmp_path / "book", reopen_options("sync", storage)) as ledger:
            fetched = ledger.recovery.blocks_fetched
            assert_equal(model, ledger)
            assert ledger.verify().ok
    assert (fetched > 0) == (cold and storage == "private")


def test_pages_that_were_touched_are_resident():
    reservation = Reservation(4 * BLOCK_BYTES)
    reservation.map_memory(0, 4 * BLOCK_BYTES)
    reservation.words()[2 * BLOCK_BYTES // 8] = 1
    assert [False, True] == [reservation.resident(at * BLOCK_BYTES + 8) for at in (1, 2)]


def test_only_a_warm_recovery_teaches_how_fast_redo_is(tmp_path):
    rates = []
    for cold, name in itertools.product((True, False), "ab"):
        path = tmp_path / f"{name}{cold}"
        killed(path, ("sync", "private"), 3)
        with (
            mock.patch("ledger.engine.recovery.REDO_BYTES_TIMED", 1),
            mock.patch.object(Reservation, "resident", return_value=not cold),
        ):
            with GeometricLedger.open(path, reopen_options("sync", "private")) as ledger:
                rates.append(ledger._control.redo_bytes_per_s)
    assert [0, 0] == rates[:2]
    assert min(rates[2:]) > 0


@pytest.mark.parametrize("kind", MAPPED, ids="-".join)
def test_zeros_over_records_in_killed_mapped_files_are_told_from_records_never_made(tmp_path, kind):
    path = tmp_path / "book"
    model = killed(path, kind, 4)
    whole = tree(path)
    shard = path / "shard_001.bin"
    data = bytearray(shard.read_bytes())
    records = [at for at in range(BLOCK_BYTES, len(data), RECORD_BYTES) if any(data[at : at + RECORD_BYTES])]
    data[records[-1] : records[-1] + RECORD_BYTES] = bytes(RECORD_BYTES)
    shard.write_bytes(data)
    for read_only in (True, False, False):
        with pytest.raises(CorruptRecordError, match="live accounts"):
            GeometricLedger.open(path, reopen_options(*kind), read_only=read_only)
    with GeometricLedger.open(path, reopen_options(*kind), salvage=True) as ledger:
        assert len(ledger) == len(model.accounts) - 1
    shard.write_bytes(whole["shard_001.bin"])
    (path / "state.bin").write_bytes(whole["state.bin"])


def test_totals_of_a_batch_that_was_being_published_are_not_taken_for_a_loss(tmp_path):
    path = tmp_path / "book"
    model = killed(path, MAPPED[0], 4)
    state = np.fromfile(path / "state.bin", np.uint64)
    state[STATE_APPLIED] += np.uint64(1)
    state[STATE_LIVE] += np.uint64(3)
    state.tofile(path / "state.bin")
    with GeometricLedger.open(path, reopen_options(*MAPPED[0])) as ledger:
        assert_equal(model, ledger)
        assert ledger.verify().ok
