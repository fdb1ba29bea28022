"""Streams of operations: their shares, their replay in every way, traces, and the experiment that measures them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments import baselines, notebooks, replay, runs, spec, streams, sweep, traces
from experiments.analysis import workloads as analysis
from experiments.errors import NotApplicableError, ParameterError
from experiments.streams import DELETE, INSERT, MIXES, MODIFY, OPERATIONS, READ, SCAN, UPDATE
from experiments.trial import Trial
from experiments.trials import workloads
from experiments.workload import Workload


def trial(folder, workload, store="dict", batch_rows=1, **changes):
    item = spec.load("workloads")
    factors = {"workload": workload, "store": store, "batch_rows": batch_rows}
    folder.mkdir()
    return Trial("workloads", item.trial, 0, 0, 0, factors, item.workload["smoke"] | changes, 1, 60.0, folder)


def numbers(outcome, name="all"):
    return next(operation.numbers for operation in outcome.operations if operation.name == name)


class TestStreams:
    @pytest.mark.parametrize("name", MIXES)
    def test_shares_are_those_of_the_mix_and_only_what_is_there_is_asked_for(self, name):
        stream, again = (streams.make(name, Workload(300, 5, "zipf"), 4_000) for _ in range(2))
        shares = np.bincount(stream.operations, minlength=len(OPERATIONS)) / len(stream)
        assert shares == pytest.approx([MIXES[name].shares.get(code, 0) for code in range(len(OPERATIONS))], abs=0.03)
        there = 300 + np.cumsum(stream.operations == INSERT)
        assert (stream.numbers < there).all() and stream.numbers.min() >= 0 and len(stream.keys) == there[-1]
        fields = [field for field in dataclasses.fields(stream) if field.name not in ("due_ns", "pairs")]
        assert all(np.array_equal(getattr(stream, field.name), getattr(again, field.name)) for field in fields)

    def test_requests_are_distributed_as_their_names_say(self):
        def shares(name, accounts=1_000):
            stream = streams.make(name, Workload(accounts, 1, "zipf"), 40_000)
            reads = stream.numbers[stream.operations == READ]
            return np.sort(np.bincount(reads, minlength=accounts))[::-1] / len(reads), stream

        weights = np.arange(1, 1_001) ** -0.99
        assert shares("ycsb_c")[0][:3] == pytest.approx(weights[:3] / weights.sum(), rel=0.1)
        assert 0.8 == pytest.approx(shares("hotspot")[0][:200].sum(), abs=0.02)
        assert shares("uniform")[0][0] < 0.003
        stream = shares("sequential")[1]
        assert set(np.diff(stream.numbers)) == {1, -999}
        stream = shares("ycsb_d")[1]
        age = 1_000 + np.cumsum(stream.operations == INSERT) - 1 - stream.numbers
        newest = np.mean(age[stream.operations == READ] == 0)
        assert newest == pytest.approx(weights[0] / weights.sum(), rel=0.1)
        stream = streams.make("ycsb_e", Workload(100, 1, "zipf"), 40_000)
        lengths = stream.values[stream.operations == SCAN, 0]
        assert (1, 100) == (lengths.min(), lengths.max()) and 50.5 == pytest.approx(lengths.mean(), rel=0.02)

    def test_a_mix_that_is_misspelt_is_refused_with_the_nearest(self):
        with pytest.raises(ParameterError, match="did you mean ycsb_a"):
            streams.make("ycsba", Workload(10, 1, "zipf"), 10)


class TestReplay:
    @pytest.mark.parametrize("seed", range(3))
    def test_windows_of_every_size_do_what_single_operations_do(self, tmp_path, seed):
        random = np.random.default_rng(seed)
        few = streams.make("mixed", Workload(5, seed + 1, "zipf"), 120)
        codes = random.choice(np.array([READ, UPDATE, MODIFY, DELETE], np.uint8), 120)
        stream = dataclasses.replace(few, operations=codes, numbers=random.integers(0, 6, 120))
        answers, accounts = replay.expected(stream)
        for window in (1, 3, 40, 120):
            path = tmp_path / str(window)
            path.mkdir()
            store = baselines.find("dict").open(path, 10, "none")
            store.load([stream.loaded])
            done = replay.run(store, stream, window)
            assert 0 == done.answers.differences(answers) and -(-120 // window) == done.calls == len(done.latencies)
            assert accounts == {key: tuple(store.get(key)) for key in accounts}
            assert not any(store.get(key) for key in baselines.key_list(stream.keys) if key not in accounts)

    def test_a_stall_counts_for_every_operation_that_was_due_meanwhile(self, tmp_path):
        stream = streams.make("ycsb_c", Workload(50, 1, "zipf"), 100)
        stream = dataclasses.replace(stream, due_ns=np.arange(100) * 500_000)
        store = baselines.find("dict").open(tmp_path, 50, "none")
        store.load([stream.loaded])
        whole, calls = store.get, []

        def stalls_once(key):
            calls.append(key)
            if len(calls) == 10:
                import time

                time.sleep(0.03)
            return whole(key)

        store.get = stalls_once
        done = replay.run(store, stream, 1, speed=1.0)
        waited = done.latencies[9:60] / 1e6
        assert waited[0] >= 30 and all(ms >= 30 - 0.5 * place for place, ms in enumerate(waited))
        assert done.seconds >= 0.0495 and 100 == done.calls
        assert replay.run(store, stream, 1, speed=0.0).seconds < 0.0495


class TestTraces:
    def table(self, **columns):
        keys = [bytes([number]) * 32 for number in (1, 2, 1, 3)]
        return pa.table({"key": keys, "op": ["get", "insert", "PUT", "delete"], **columns})

    @pytest.mark.parametrize(
        "times",
        [[5.0, 5.001, 5.001, 5.5], np.array([7, 1_000_007, 1_000_007, 500_000_007]), "timestamps"],
        ids=["seconds", "nanoseconds", "timestamps"],
    )
    @pytest.mark.parametrize("as_text", [False, True])
    def test_a_trace_of_each_form_is_read_as_it_is(self, tmp_path, times, as_text):
        if isinstance(times, str):
            times = pa.array([0, 1_000, 1_000, 500_000], pa.timestamp("us"))
        table = self.table(time=times)
        if as_text:
            table = table.set_column(0, "key", [[key.hex() for key in table["key"].to_pylist()]])
        pq.write_table(table, tmp_path / "t.parquet")
        stream = traces.read(tmp_path / "t.parquet", 1)
        assert [READ, INSERT, UPDATE, DELETE] == stream.operations.tolist()
        assert [0, 1_000_000, 1_000_000, 500_000_000] == stream.due_ns.tolist()
        assert [1, 2, 1, 3] == stream.keys[stream.numbers, 0].tolist()
        assert [1, 3] == sorted(stream.loaded["pubkey"][:, 31].tolist())  # 2 is inserted first

    @pytest.mark.parametrize(
        ("columns", "words"),
        [
            ({"op": ["get", "get", "gte", "get"]}, r"op in row 2 .*did you mean get"),
            ({"op": ["get", None, "get", "get"]}, "op in row 1 .* is missing"),
            ({"key": [b"x" * 32, b"x" * 32, b"x" * 32, b"x" * 31]}, "key in row 3 .* not 32 bytes"),
            ({"key": ["0" * 64, "0" * 64, "zz" * 32, "0" * 64]}, "key in row 2 .* not 32 bytes"),
            ({"time": [0.0, 2.0, 1.0, 3.0]}, "time in row 2 .* before"),
            ({"time": [0.0, float("nan"), 1.0, 3.0]}, "time in row 1 .* no time"),
            ({"time": ["a", "b", "c", "d"]}, "give seconds"),
        ],
    )
    def test_what_is_wrong_in_a_trace_is_named_with_its_row(self, tmp_path, columns, words):
        table = self.table().to_pydict() | columns
        pq.write_table(pa.table(table), tmp_path / "t.parquet")
        with pytest.raises(ParameterError, match=words):
            traces.read(tmp_path / "t.parquet", 1)

    def test_a_file_that_is_no_trace_is_refused(self, tmp_path):
        with pytest.raises(ParameterError, match="cannot be read"):
            traces.read(tmp_path / "none.parquet", 1)
        pq.write_table(pa.table({"key": [b"x" * 32], "ops": ["get"]}), tmp_path / "t.parquet")
        with pytest.raises(ParameterError, match=r"no column op .*did you mean ops"):
            traces.read(tmp_path / "t.parquet", 1)
        pq.write_table(self.table()[:0], tmp_path / "t.parquet")
        with pytest.raises(ParameterError, match="no rows"):
            traces.read(tmp_path / "t.parquet", 1)


class TestTrial:
    @pytest.mark.parametrize("workload", ["transfer", "growing", "trace"])
    def test_every_store_and_window_ends_with_the_same_accounts(self, tmp_path, workload):
        cells = [("ledger", 1), ("ledger", 64), ("dict", 1), ("lmdb", 64)]
        found = {cell: workloads.measure(trial(tmp_path / "-".join(map(str, cell)), workload, *cell)) for cell in cells}
        assert 1 == len({outcome.state_hash for outcome in found.values()})
        assert {"open" if workload == "trace" else "closed"} == {outcome.facts["loop"] for outcome in found.values()}
        rows = {"trace": 200}.get(workload, 400)
        assert {rows} == {numbers(outcome)["rows"] for outcome in found.values()}

    def test_scans_are_for_stores_with_an_order_and_one_by_one(self, tmp_path):
        with pytest.raises(NotApplicableError, match="ledger keeps no order of keys"):
            workloads.measure(trial(tmp_path / "ledger", "ycsb_e", "ledger"))
        with pytest.raises(NotApplicableError, match="cannot wait for a batch"):
            workloads.measure(trial(tmp_path / "window", "ycsb_e", "lmdb", 64))
        found = [workloads.measure(trial(tmp_path / store, "ycsb_e", store)) for store in ("lmdb", "rocksdb", "sqlite")]
        assert 1 == len({outcome.state_hash for outcome in found})
        assert all(numbers(outcome, "scan")["calls"] > 300 for outcome in found)

    @pytest.mark.parametrize(
        ("loses", "words"), [("put", "read something else"), ("update_batch", "money|accounts are")]
    )
    def test_a_store_that_loses_writes_is_a_failed_trial(self, tmp_path, monkeypatch, loses, words):
        kind = baselines.find("numpy")
        whole, calls = getattr(kind, loses), []

        def lossy(self, *arguments):
            calls.append(arguments)
            if len(calls) % 7:
                whole(self, *arguments)

        monkeypatch.setattr(kind, loses, lossy)
        with pytest.raises(AssertionError, match=words):
            workloads.measure(trial(tmp_path / "lossy", "ycsb_a" if loses == "put" else "transfer", "numpy"))

    def test_a_trace_of_ones_own_is_replayed_as_fast_as_asked(self, tmp_path):
        path = tmp_path / "own.parquet"
        traces.write(path, streams.make("mixed", Workload(100, 3, "zipf"), 50), 30.0)
        outcome = workloads.measure(trial(tmp_path / "own", "trace", trace=str(path), trace_speed=1_000.0))
        assert 50 == numbers(outcome)["rows"] and 0.029 < numbers(outcome)["seconds"] < 5
        outcome = workloads.measure(trial(tmp_path / "fast", "trace", trace=str(path), trace_speed=0.0))
        assert "closed" == outcome.facts["loop"] and numbers(outcome)["seconds"] < 5


@pytest.mark.slow
def test_a_run_gives_every_figure_and_its_notebook_runs(tmp_path, monkeypatch):
    from experiments import progress

    monkeypatch.setenv(runs.RESULTS_VARIABLE, str(tmp_path))
    changes = {"trace_operations": 1_100}
    done = sweep.run([sweep.plan(spec.load("workloads"), "smoke", changes)], progress.for_stream())
    rows = runs.load(done.id, "workloads")
    assert {"ok", "not applicable"} == set(rows["status"].unique())
    assert {1} == set(rows.dropna(subset=["state_hash"]).groupby("workload")["state_hash"].nunique())
    found = analysis.figures(rows)
    assert set(spec.load("workloads").figures) <= set(found)
    assert "not measured" not in analysis.answer(found) and 2 == len(analysis.headline(rows))
    target = tmp_path / "out.ipynb"
    notebooks.execute(spec.NOTEBOOKS / "40-workloads.ipynb", target, {"run_id": done.id})
    text = target.read_text(encoding="utf-8")
    assert "all hashes equal" in text and "keeps no order of keys" in text
