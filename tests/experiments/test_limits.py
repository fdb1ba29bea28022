"""The floors, the disk writer, the rival and the turns that `limits` is made of."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from experiments import floors, spec
from experiments.analysis import limits as analysis
from experiments.baselines.lmdb_store import LmdbStore
from experiments.floors import Places
from experiments.trial import Trial
from experiments.trials import limits
from experiments.trials.frames import FRAMES, FrameWriter
from experiments.workload import Workload
from ledger import GeometricLedger, Options

ACCOUNTS = 6_000
LOAD = Workload(ACCOUNTS)


def open_ledger(path, load=LOAD, **options):
    chosen = {"durability": "none", "capacity": load.accounts, "shards": 4, "threads": 2, "index_load": 0.9}
    ledger = GeometricLedger.open(path, Options(**{**chosen, **options}))
    for batch in load.fill(1_000):
        ledger.update_batch(batch)
    return ledger


def words(array):
    return np.ascontiguousarray(array).view(np.uint64).reshape(len(array), -1)


@pytest.fixture
def ledger(tmp_path):
    return open_ledger(tmp_path / "ledger")


@pytest.mark.parametrize("distance", floors.DISTANCES)
def test_the_floor_of_reads_finds_what_the_engine_finds_and_no_other(ledger, distance):
    keys = words(np.concatenate([*LOAD.hits(1, 3_000), *LOAD.misses(1, 500), *LOAD.hits(1, 2_001)]))
    records, found = ledger.get_batch(keys.view(np.uint8))
    out = np.zeros((len(keys), 8), np.uint64)
    assert found.sum() == floors.get(ledger._pool, ledger._view, keys, Places.of(ledger._view, keys), distance, out)
    assert np.array_equal(words(records)[found], out[found])
    assert not out[~found].any()


@pytest.mark.parametrize("distance", floors.DISTANCES)
def test_the_floor_of_updates_rewrites_four_fields_of_the_record_and_nothing_else(ledger, distance):
    before = [ledger.record_view(shard).copy() for shard in range(4)]
    rows = words(LOAD.records(np.arange(ACCOUNTS), 1))
    assert ACCOUNTS == floors.update(ledger._pool, ledger._view, rows, Places.of(ledger._view, rows), distance)
    after = [ledger.record_view(shard).copy() for shard in range(4)]
    wanted = {row[:4].tobytes(): row[4:].tobytes() for row in rows}
    for old, new in zip(before, after, strict=True):
        for record in new:
            assert wanted[record["pubkey"].tobytes()] == record["a"].tobytes()[:32]
        for name in ("balance", "nonce", "staked", "last_modified"):
            new["a"][name] = old["a"][name]
        assert old.tobytes() == new.tobytes()


def test_the_floor_compares_whole_keys_when_fingerprints_are_equal(ledger):
    view = ledger._view
    keys = words(LOAD.pubkeys(np.arange(0, ACCOUNTS, 40)))
    places = dataclasses.replace(Places.of(view, keys), tags=np.full(len(keys), 7, np.uint64))
    for at, positions in view.shards.reshape(-1, 8)[:, :2].tolist():
        part = view.index[at : at + positions]
        part[part != 0] = (part[part != 0] & np.uint64(0xFFFFFFFF)) | np.uint64(7 << 32)
    out = np.zeros((len(keys), 8), np.uint64)
    assert len(keys) == floors.get(ledger._pool, view, keys, places, 8, out)
    assert np.array_equal(keys, out[:, :4])


def test_every_way_of_the_disk_writer_writes_as_often_as_it_is_told(tmp_path):
    writer = FrameWriter(tmp_path / "frames.bin", 8192)
    for write in writer.ways.values():
        write(list(range(FRAMES + 3)))
    writer.close()
    assert [] == list(tmp_path.iterdir())


def test_lmdb_answers_what_the_ledger_answers(tmp_path, ledger):
    store = LmdbStore.open(tmp_path, ACCOUNTS)
    store.load(LOAD.fill(1_000))
    changed = LOAD.updates(1, 500)[0]
    store.update_batch(changed)
    ledger.update_batch(changed)
    keys = np.concatenate([changed["pubkey"], *LOAD.hits(1, 300), *LOAD.misses(1, 30)])
    (mine, found), (its, its_found) = ledger.get_batch(keys), store.get_batch(keys)
    assert np.array_equal(found, its_found) and np.array_equal(mine, its)
    plain = [key.tobytes() for key in keys]
    assert found.sum() == store.get_each(plain) == store.get_each_kept(plain)
    assert store.get(plain[-1]) is None
    assert tuple(ledger.get(plain[0]))[1:] == store.get(plain[0])
    store.close()


def test_parts_take_turns_and_each_round_begins_with_another():
    seen = []
    parts = {name: limits.timed(lambda item, name=name: seen.append((name, item))) for name in "abc"}
    rounds = [{name: [number] for name in "abc"} for number in range(3)]
    operations = limits.take_turns(parts, rounds, 10)
    assert "a b c b c a c a b".split() == [name for name, _ in seen]
    assert [0, 0, 0, 1, 1, 1, 2, 2, 2] == [operation.numbers["round"] for operation in operations]
    assert [3, 3, 3] == [operation.histograms["latency"].n for operation in operations[:3]]
    assert not any(operation.histograms for operation in operations[3:])


def trial(tmp_path, part, name):
    item = spec.load("limits")
    tiny = {"accounts": 5_000, "accounts_small": 1_000, "batch_rows": 1_500, "rounds": 2, "single_gets": 50}
    scratch = tmp_path / name
    scratch.mkdir()
    return Trial("limits", item.trial, 0, 0, 0, {"part": part}, item.workload["smoke"] | tiny, 1, 60.0, scratch)


def test_no_snapshot_falls_into_a_round_and_equal_trials_leave_equal_accounts(tmp_path):
    one, two = (limits.measure(trial(tmp_path, "batches", name)) for name in ("one", "two"))
    assert one.state_hash == two.state_hash
    assert 0 == one.facts["checkpoints_in_rounds"] == two.facts["checkpoints_in_rounds"]
    rounds = [operation for operation in one.operations if "round" in operation.numbers]
    assert set(analysis.NAMES) == {operation.name for operation in rounds}


@pytest.mark.slow
def test_a_run_gives_every_figure_with_its_interval(smoke):
    rows, text = smoke("limits", "91-limits.ipynb")
    assert ["ok"] == list(rows["status"].unique())
    found = analysis.figures(rows)
    names = list(spec.load("limits").figures)
    assert set(names) == {name for name in found if not name.endswith(("_lo", "_hi"))}
    with_interval = [name for name in names if name + "_lo" in found]
    assert all(found[name + "_lo"] <= found[name] <= found[name + "_hi"] for name in with_interval)
    assert set(names) - set(with_interval) == {name for name in names if name.startswith(("open_", "memory_"))}
    assert len(analysis.headline(rows)) == 2 and "not measured" not in analysis.answer(found)
    assert len(analysis.bounds(rows)) == 4 and len(analysis.table(rows)) == len(names)
    assert "all hashes equal" in text
