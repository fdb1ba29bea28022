"""The two cells of a record against naive twins."""

from __future__ import annotations

import numpy as np
import pytest

from ledger.kernels import records as kernels
from ledger.layout import (
    CELL,
    CELL_A,
    CELL_LSN,
    FLAG_LIVE,
    FLAG_ROW_SHIFT,
    LSN_BUSY,
    STATUS_ABSENT,
    STATUS_CORRUPT,
    STATUS_RETRY,
)
from tests.kernels.twins import U64, Ledger, seal
from tests.model import Model, accounts_of, make_accounts, make_key

SEED, SLOT = 1002, 5  # of shard 2
WORD = np.uint64


def words_of(key):
    return [WORD(int.from_bytes(key[at : at + 8], "little")) for at in (0, 8, 16, 24)]


def place(small, key, *, shard=2, slot=SLOT):
    """Put a key into its record; returns the number of the record's first word."""
    small.record(shard, slot)["pubkey"][0] = np.frombuffer(key, np.uint8)
    return WORD((shard * small.slots + slot) * 16)


def write(small, record, key, fields, lsn, *, live=True, row=0, shared=False, seed=SEED, slot=SLOT):
    """Call write_cell; returns verdict, was_live and was_balance as integers."""
    flags = WORD((FLAG_LIVE if live else 0) | row << FLAG_ROW_SHIFT)
    values = [WORD(field) for field in fields]
    result = kernels.write_cell(
        small.records, record, WORD(seed), WORD(slot), *words_of(key), *values, WORD(lsn), flags, shared
    )
    return tuple(int(value) for value in result)


def read(small, record, committed, *, seed=SEED, slot=SLOT):
    status, *fields = kernels.read_cell(small.records, record, WORD(committed), WORD(seed), WORD(slot))
    return int(status), tuple(int(field) for field in fields)


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("fields", [(0, 0, 0, 0), (1, 2, 3, 4), (U64 - 1,) * 4])
@pytest.mark.parametrize("lsn", [1, 2**32 + 7, 2**62])
def test_a_cell_is_sealed_by_the_crc_over_place_key_fields_lsn_and_flags(live, fields, lsn):
    small, key = Ledger(), make_key(3)
    record = place(small, key)
    write(small, record, key, fields, lsn, live=live, row=9)
    found = small.record(2, SLOT)
    cell = found["a"][0] if found["a"]["lsn"][0] else found["b"][0]
    flags = int(live) | 9 << FLAG_ROW_SHIFT
    assert (*fields, lsn, *seal(SEED, SLOT, key, fields, lsn, flags)) == tuple(cell.item())
    assert CELL.itemsize == 48


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a_history_reads_as_of_each_lsn_that_two_cells_can_hold(shared, seed):
    choose = np.random.default_rng(seed)
    small, key = Ledger(), make_key(7)
    record = place(small, key)
    history = {0: None}
    lsn = 0
    for _ in range(40):
        lsn += int(choose.integers(1, 4))
        before = history[max(history)]
        fields = tuple(int(word) for word in choose.integers(0, U64, 4, dtype=np.uint64))
        live = bool(choose.integers(0, 4))
        rows = sorted(int(row) for row in choose.integers(0, 1000, choose.integers(1, 4)))
        for row in sorted(set(rows)):
            fields = (*fields[:3], row)
            verdict, was_live, was_balance = write(small, record, key, fields, lsn, live=live, row=row, shared=shared)
            assert (1, int(before is not None)) == (verdict, was_live)
            assert before is None or before[0] == was_balance
            before = fields if live else None
        history[lsn] = before
        states = sorted(history)
        for committed in range(states[-2], lsn + 3):
            state = history[max(at for at in states if at <= committed)]
            expected = (STATUS_ABSENT, (0,) * 4) if state is None else (0, state)
            assert expected == read(small, record, committed)
        if len(states) > 2 and states[-2] > 0:
            status, found = read(small, record, states[-2] - 1)
            old = history[max(at for at in states if at < states[-2])]
            assert STATUS_RETRY == status or (status, found) == ((0, old) if old else (STATUS_ABSENT, (0,) * 4))


def test_of_two_rows_of_one_frame_the_later_one_stays_in_any_order():
    for order in ((1, 2, 3), (3, 1, 2), (2, 3, 1), (3, 2, 1)):
        small, key = Ledger(), make_key(1)
        record = place(small, key)
        write(small, record, key, (5, 5, 5, 5), 1)
        verdicts = [write(small, record, key, (row,) * 4, 2, row=row, shared=True)[0] for row in order]
        assert (0, (3,) * 4) == read(small, record, 2)
        assert (0, (5,) * 4) == read(small, record, 1)
        greatest = [max(order[: at + 1]) == row for at, row in enumerate(order)]
        assert greatest == [verdict == 1 for verdict in verdicts]


def test_every_flipped_bit_of_the_newest_cell_but_its_lsn_is_corrupt():
    small, key = Ledger(), make_key(2)
    record = place(small, key)
    write(small, record, key, (1, 2, 3, 4), 6)
    first = int(record) + (CELL_A if small.record(2, SLOT)["a"]["lsn"][0] else CELL_A + 6)
    for word in (*range(first, first + CELL_LSN), first + CELL_LSN + 1, *range(int(record), int(record) + 4)):
        for bit in range(0, 64, 3):
            small.records[word] ^= WORD(1 << bit)
            assert STATUS_CORRUPT == read(small, record, 6)[0], (word, bit)
            small.records[word] ^= WORD(1 << bit)
    for seed, slot in ((SEED + 1, SLOT), (SEED, SLOT + 1)):
        assert STATUS_CORRUPT == read(small, record, 6, seed=seed, slot=slot)[0], "a record in the wrong place"
    assert (0, (1, 2, 3, 4)) == read(small, record, 6)


def test_a_cell_that_is_being_written_is_not_read():
    small, key = Ledger(), make_key(2)
    record = place(small, key)
    write(small, record, key, (1, 1, 1, 1), 1)
    write(small, record, key, (2, 2, 2, 2), 2)
    cells = small.record(2, SLOT)
    older = "a" if cells["a"]["lsn"][0] == 1 else "b"
    newer = "b" if older == "a" else "a"
    cells[older]["lsn"] = LSN_BUSY
    assert (0, (2,) * 4) == read(small, record, 2)
    assert STATUS_RETRY == read(small, record, 1)[0]
    cells[newer]["lsn"] = LSN_BUSY
    assert STATUS_RETRY == read(small, record, 2)[0]


def test_redo_clears_broken_cells_and_whole_ones_stay():
    for broken in ((), ("a",), ("b",), ("a", "b")):
        small, key = Ledger(), make_key(2)
        record = place(small, key)
        for lsn in (1, 2):
            write(small, record, key, (lsn,) * 4, lsn)
        cells = small.record(2, SLOT)
        whole = {name: int(cells[name]["lsn"][0]) for name in ("a", "b")}
        for name in broken:
            cells[name]["nonce"] ^= 1
        kernels.clear_broken_cells(small.records, record, WORD(SEED), WORD(SLOT))
        expected = {name: 0 if name in broken else lsn for name, lsn in whole.items()}
        assert expected == {name: int(cells[name]["lsn"][0]) for name in ("a", "b")}


# ---------------------------------------------------------------- passes over a shard
def fill(seed, used):
    """Return a ledger with random states in shard 1 up to LSN 3, and the model of it."""
    small, model = Ledger(), Model()
    for slot in range(used):
        key = make_key(slot)
        place(small, key, shard=1, slot=slot)
    choose = np.random.default_rng(seed)
    for lsn in (1, 2, 3):
        accounts = make_accounts(seed + lsn, used)
        for slot, account in enumerate(accounts_of(accounts)):
            live = bool(choose.integers(0, 5))
            if lsn > 1 and choose.integers(0, 2):
                continue
            write(
                small,
                WORD((small.slots + slot) * 16),
                account.pubkey,
                account[1:],
                lsn,
                live=live,
                seed=1001,
                slot=slot,
            )
            model.accounts[account.pubkey] = account
            if not live:
                del model.accounts[account.pubkey]
    return small, model


@pytest.mark.parametrize("used", [0, 1, 40, 64])
def test_sums_equal_the_model(used):
    small, model = fill(used, used)
    out = np.zeros(8, np.uint64)
    kernels.sum_records(small.records, WORD(small.slots), WORD(used), WORD(1001), WORD(3), out)
    live, low, high, hash_low, hash_high, broken, first, _ = (int(word) for word in out)
    assert (len(model.accounts), model.supply) == (live, low | high << 64)
    assert model.state_hash() == f"{(hash_low | hash_high << 64):032x}"
    assert (0, 0) == (broken, first)
    rows = np.zeros((used, 8), np.uint64)
    count = kernels.export_records(small.records, WORD(small.slots), 0, used, WORD(1001), WORD(3), rows)
    assert sorted(model.accounts.values()) == sorted(accounts_of(rows[:count].view(make_accounts(0, 0).dtype).ravel()))


def test_sums_and_exports_name_the_first_corrupt_slot():
    small, _ = fill(1, 40)
    for slot in (30, 12):
        small.record(1, slot)["a"]["staked"] ^= 8
        small.record(1, slot)["b"]["staked"] ^= 8
    out = np.zeros(8, np.uint64)
    kernels.sum_records(small.records, WORD(small.slots), WORD(40), WORD(1001), WORD(3), out)
    assert (2, 13) == (int(out[5]), int(out[6]))
    rows = np.zeros((40, 8), np.uint64)
    arguments = (WORD(1001), WORD(3), rows)
    assert -1 - 12 == kernels.export_records(small.records, WORD(small.slots), 0, 40, *arguments)
    assert 0 <= kernels.export_records(small.records, WORD(small.slots), 13, 30, *arguments)


def check(small, used, committed=3):
    out = np.zeros(5, np.int64)
    kernels.check_records(
        small.records, WORD(small.slots), np.int64(small.slots), WORD(used), WORD(1001), WORD(committed), out
    )
    return out.tolist()


def test_a_check_counts_each_kind_of_fault_and_names_the_first_slot():
    small, _ = fill(3, 40)
    assert [0, 0, 0, 0, 0] == check(small, 40)
    assert check(small, 39) == [0, 1, 0, 0, 40]
    assert check(small, 41) == [0, 0, 1, 0, 41]
    future = sum(int((small.record(1, slot)[cell]["lsn"] > 2).sum()) for slot in range(40) for cell in ("a", "b"))
    assert future == check(small, 40, committed=2)[3]
    small.record(1, 7)["a"]["balance"] ^= 1
    small.record(1, 7)["b"]["balance"] ^= 1
    cells = sum(int(small.record(1, 7)[cell]["lsn"][0] > 0) for cell in ("a", "b"))
    assert [cells, 0, 0, 0, 8] == check(small, 40)


def test_a_roll_back_leaves_the_state_as_of_the_lsn_and_nothing_above():
    small, _ = fill(4, 40)
    before = small.copy()
    for slot in (40, 41):
        place(small, make_key(slot), shard=1, slot=slot)
        write(small, WORD((small.slots + slot) * 16), make_key(slot), (1, 1, 1, 1), 4, seed=1001, slot=slot)
    changed = 3
    write(small, WORD((small.slots + changed) * 16), make_key(changed), (9, 9, 9, 9), 4, seed=1001, slot=changed)
    small.record(1, 42)["pubkey"] = 7
    small.record(1, 42)["a"]["lsn"] = LSN_BUSY
    out = np.zeros(4, np.uint64)
    kernels.roll_back(small.records, WORD(small.slots), np.int64(small.slots), WORD(1001), WORD(3), out)
    assert [40, 4, 0, 3] == out.tolist()
    for slot in range(small.slots):
        record = WORD((small.slots + slot) * 16)
        assert read(before, record, 3, seed=1001, slot=slot) == read(small, record, 3, seed=1001, slot=slot)
    assert not small.records[(small.slots + 40) * 16 : 2 * small.slots * 16].any()
