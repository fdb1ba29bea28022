"""The fused loops over a batch against the model: any number of lanes, any prefetch distance, redo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ledger.engine.apply import NO_DELETES, Applier
from ledger.engine.pool import Pool
from ledger.kernels import batch_write as kernels
from ledger.kernels.index import trim_index
from ledger.layout import (
    ACCOUNT,
    SHARD_INDEX_BASE,
    SHARD_POSITIONS,
    SHARD_SUM,
    SHARD_USED,
    SHARD_WORDS,
    STATE_COMMITTED,
    STATE_TAINTED,
    STATUS_CORRUPT,
    STATUS_RETRY,
)
from ledger.options import Options
from ledger.storage.shard import View
from tests.kernels.twins import HASH_KEY, Ledger
from tests.model import Model, accounts_of, make_accounts, make_keys

ROOT = Path(__file__).resolve().parents[2]
KEYS = 150


def applier(small, lanes=1, distance=16):
    view = View(small.index, small.records, small.shards, small.dirty, small.index_dirty, small.state, small.key)
    return Applier(view, Pool(lanes), Options(prefetch=distance, threads=lanes), HASH_KEY)


def words(records):
    return records.view(np.uint64).reshape(len(records), 8)


def key_words(keys):
    return np.ascontiguousarray(keys).view(np.uint64).reshape(len(keys), 4)


def frames(seed, count, rows):
    """Return (rows, deletes) of some frames, full of duplicates, deletes of keys of the same frame among them."""
    choose = np.random.default_rng(seed)
    made = []
    for number in range(count):
        records = make_accounts(int(choose.integers(1 << 30)), KEYS)[choose.integers(0, KEYS, rows)]
        records["nonce"] = choose.integers(0, 1 << 50, rows)
        deletes = make_keys(choose.integers(0, KEYS + 20, number * 3 % 17))
        made.append((words(records), key_words(deletes) if len(deletes) else NO_DELETES))
    return made


def apply(small, made, first_lsn=1, **arguments):
    lanes, distance = arguments.pop("lanes", 1), arguments.pop("distance", 16)
    work = applier(small, lanes, distance)
    for lsn, (rows, deletes) in enumerate(made, first_lsn):
        work.apply(rows, deletes, lsn, publish=True, **arguments)
    work.pool.close()
    return work


def read(small, keys, committed, lanes=1, distance=16):
    work = applier(small, lanes, distance)
    out, found = np.full((len(keys), 8), 9, np.uint64), np.full(len(keys), 9, np.uint8)
    status, place = work.read(key_words(keys), committed, out, found)
    work.pool.close()
    return status, place, out.view(ACCOUNT).ravel(), found


def model_of(made):
    model = Model()
    for rows, deletes in made:
        model.update_batch(rows.view(ACCOUNT).ravel(), deletes.view(np.uint8).reshape(-1, 32))
    return model


def assert_model(model, small, **arguments):
    keys = make_keys(range(KEYS + 30))
    status, _, records, found = read(small, keys, model.lsn, **arguments)
    assert 0 == status
    expected = [model.accounts.get(key.tobytes()) for key in keys]
    assert [account is not None for account in expected] == found.astype(bool).tolist()
    assert [account for account in expected if account] == accounts_of(records[found == 1])
    assert not any(records[found == 0][name].any() for name in ("balance", "nonce", "staked", "last_modified"))
    assert make_keys(range(KEYS + 30)).tobytes() == np.ascontiguousarray(records["pubkey"]).tobytes()
    assert (len(model.accounts), model.supply, model.lsn) == small.totals()
    assert not small.tainted


@pytest.mark.parametrize("distance", [0, 1, 7, 8, 16, 63, 64])
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 300])
def test_frames_equal_the_model_at_any_prefetch_distance(distance, rows):
    made = frames(rows, 6, rows)
    small = Ledger(slots=96, positions=128)
    apply(small, made, distance=distance)
    assert_model(model_of(made), small, distance=distance)


@pytest.mark.parametrize("lanes", [2, 3, 4])
def test_several_lanes_give_what_one_lane_gives(lanes):
    made = frames(lanes, 8, 5000)
    one, several = Ledger(slots=96, positions=128), Ledger(slots=96, positions=128)
    apply(one, made)
    apply(several, made, lanes=lanes)
    assert one.bytes()[1:] == several.bytes()[1:]
    assert one.totals() == several.totals()
    assert_model(model_of(made), one)
    assert_model(model_of(made), several, lanes=lanes)


def test_dirty_blocks_cover_every_change():
    made = frames(3, 5, 200)
    small = Ledger(slots=96, positions=128)
    for lsn, frame in enumerate(made, 1):
        before = small.copy()
        small.dirty[:] = small.index_dirty[:] = 0
        apply(small, [frame], lsn)
        for old, new, dirty in (
            (before.records, small.records, small.dirty),
            (before.index, small.index, small.index_dirty),
        ):
            changed = np.flatnonzero(old != new) // 512
            assert set(changed.tolist()) <= set(np.flatnonzero(dirty).tolist())


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_redo_over_an_image_with_blocks_of_the_future_gives_the_same_state(seed, lanes):
    made = frames(seed, 9, 40 if lanes == 1 else 3000)
    choose = np.random.default_rng(seed)
    start = int(choose.integers(0, 5))
    base, end = Ledger(slots=96, positions=128), Ledger(slots=96, positions=128)
    apply(base, made[:start])
    apply(end, made)
    mixed = base.copy()
    for block in range(len(mixed.records) // 512):
        if choose.integers(0, 2):
            mixed.records[block * 512 : (block + 1) * 512] = end.records[block * 512 : (block + 1) * 512]
    for shard in range(4):
        if choose.integers(0, 2):
            mixed.index[shard * 512 : (shard + 1) * 512] = end.index[shard * 512 : (shard + 1) * 512]
        at = shard * SHARD_WORDS
        used, kept = mixed.shards[at + SHARD_USED], mixed.shards[at + SHARD_SUM]
        first, positions = mixed.shards[at + SHARD_INDEX_BASE], mixed.shards[at + SHARD_POSITIONS]
        assert kept == trim_index(mixed.index, first, positions, used, mixed.index_dirty)
    apply(mixed, made[start:], start + 1, redo=True, lanes=lanes)
    assert end.bytes()[1:] == mixed.bytes()[1:]
    model = model_of(made)
    status, _, records, found = read(mixed, make_keys(range(KEYS)), model.lsn)
    assert 0 == status
    assert sorted(model.accounts.values()) == sorted(accounts_of(records[found == 1]))
    if not mixed.tainted:
        assert (len(model.accounts), model.supply, model.lsn) == mixed.totals()


def test_redo_mends_torn_cells():
    made = frames(8, 6, 60)
    whole, torn = Ledger(slots=96, positions=128), Ledger(slots=96, positions=128)
    apply(whole, made)
    apply(torn, made[:3])
    choose = np.random.default_rng(1)
    touched = {rows[row, :4].tobytes() for rows, _ in made[3:] for row in range(len(rows))}
    for shard in range(4):
        for slot in range(int(torn.shards[shard * SHARD_WORDS + SHARD_USED])):
            record = torn.record(shard, slot)
            cells = sorted(("a", "b"), key=lambda cell: record[cell]["lsn"][0])
            if record["pubkey"].tobytes() in touched and choose.integers(0, 2):
                record[cells[0]]["balance"] = 77
                record[cells[0]]["lsn"] = 9
    apply(torn, made[3:], 4, redo=True)
    model = model_of(made)
    status, _, records, found = read(torn, make_keys(range(KEYS)), model.lsn)
    assert 0 == status
    assert sorted(model.accounts.values()) == sorted(accounts_of(records[found == 1]))


def test_what_is_not_published_is_not_read():
    made = frames(5, 3, 50)
    small = Ledger(slots=96, positions=128)
    apply(small, made[:2])
    work = applier(small)
    work.apply(*made[2], 3)
    assert 2 == int(small.state[STATE_COMMITTED])
    before = model_of(made[:2])
    status, _, records, found = read(small, make_keys(range(KEYS)), 2)
    assert 0 == status
    assert sorted(before.accounts.values()) == sorted(accounts_of(records[found == 1]))
    assert (len(before.accounts), before.supply) == small.totals()[:2]
    kernels.publish(small.state, 3)
    assert_model(model_of(made), small)


def test_a_reader_overtaken_by_two_frames_is_told_to_try_again():
    small = Ledger(slots=96, positions=128)
    everybody = words(make_accounts(1, KEYS))
    apply(small, [(everybody, NO_DELETES)] * 4)
    assert STATUS_RETRY == read(small, make_keys(range(KEYS)), 2)[0]
    assert 0 == read(small, make_keys(range(KEYS)), 3)[0]


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_corrupt_record_is_named_by_shard_and_slot(lanes):
    small = Ledger(slots=96, positions=128)
    apply(small, frames(1, 3, 400))
    key = small.record(3, 6)["pubkey"].copy()
    for cell in ("a", "b"):
        small.record(3, 6)[cell]["staked"] ^= 1
    keys = np.concatenate([make_keys(range(KEYS)), np.repeat(key, 3000, axis=0)])
    assert (STATUS_CORRUPT, 3 << 32 | 6) == read(small, keys, 3, lanes=lanes)[:2]


def test_plans_name_the_shard_of_each_new_key_and_change_nothing():
    small = Ledger(slots=96, positions=128)
    apply(small, [(words(make_accounts(1, 60)), NO_DELETES)])
    before = small.bytes()
    rows = words(make_accounts(2, 100))
    new = np.full(100, 99, np.uint32)
    scratch = np.zeros((3, 8), np.uint32)
    kernels.plan_rows(small.view, rows, np.zeros((3, 0), np.uint32), small.key, 4, scratch, new)
    assert before == small.bytes()
    other = small.copy()
    apply(other, [(rows, NO_DELETES)], 2)
    where = {
        other.record(shard, slot)["pubkey"].tobytes(): shard + 1
        for shard in range(4)
        for slot in range(int(other.shards[shard * SHARD_WORDS + SHARD_USED]))
    }
    expected = [0] * 60 + [where[key.tobytes()] for key in make_keys(range(60, 100))]
    assert expected == new.tolist()


def test_probe_distances_are_counted_once_a_row():
    small = Ledger(slots=96, positions=128)
    work = apply(small, [(words(make_accounts(1, KEYS)), NO_DELETES)])
    assert KEYS == int(np.sum(work.probes if not callable(work.probes) else work.probes()))
    assert 0 == int(small.state[STATE_TAINTED])


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("NUMBA_BOUNDSCHECK") == "1", reason="this is the run with bounds checked")
def test_the_kernels_own_tests_pass_with_bounds_checked():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow and not speed",
        "tests/kernels",
    ]
    environment = os.environ | {"NUMBA_BOUNDSCHECK": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert 0 == done.returncode, done.stdout[-3000:]
