"""The rivals experiment: all stores end with the same accounts, and a store with a wrong answer is found out."""

from __future__ import annotations

import pandas as pd
import pytest

from experiments import baselines, spec, sweep
from experiments.analysis import rivals as analysis
from experiments.errors import ParameterError
from experiments.streams import MIXES
from experiments.trial import Trial
from experiments.trials import rivals

TINY = {"puts": 5, "gets": 10, "update_calls": 2, "get_calls": 2}


def trial(folder, store, durability="none"):
    item = spec.load("rivals")
    factors = {"store": store, "durability": durability, "accounts": 600, "batch_rows": 100}
    folder.mkdir()
    return Trial("rivals", item.trial, 0, 0, 0, factors, item.workload["smoke"] | TINY, 1, 60.0, folder)


def test_a_log_a_tree_and_a_dict_end_with_the_same_accounts_and_tell_what_they_wrote(tmp_path):
    found = {}
    for store in ("ledger", "rocksdb", "lmdb", "dict"):
        found[store] = rivals.measure(trial(tmp_path / store, store))
        numbers = [operation.numbers for operation in found[store].operations if operation.name == "update_batch"]
        assert 1 == len(numbers) and numbers[0]["settled_bytes_per_row"] >= 64 and numbers[0]["rows"] == 200
        sizes = [row.numbers["disk_bytes_per_account"] for row in found[store].operations if row.name == "close"]
        assert 4 == len(sizes) and min(sizes) >= 64
        assert found[store].facts["version"] and not (tmp_path / store / "store" / "load.sst").exists()
    assert 1 == len({outcome.state_hash for outcome in found.values()})


@pytest.mark.parametrize("loses", ["update_batch", "put"])
def test_a_store_that_loses_a_write_is_a_failed_trial(tmp_path, monkeypatch, loses):
    kind = baselines.find("numpy")
    whole = getattr(kind, loses)
    calls = []

    def lossy(self, *arguments):
        calls.append(arguments)
        if len(calls) == 1:
            whole(self, *arguments)

    monkeypatch.setattr(kind, loses, lossy)
    with pytest.raises(AssertionError, match=r"accounts are not what was written last|answered wrongly"):
        rivals.measure(trial(tmp_path / "lossy", "numpy"))


def test_the_classes_that_the_spec_leaves_out_are_those_that_stores_do_not_have():
    plan = sweep.plan(spec.load("rivals"))
    levels = {(cell.factors["store"], cell.factors["durability"]) for cell in plan.possible}
    assert levels == {(name, mode) for name in baselines.STORES for mode in baselines.find(name).durabilities}


@pytest.mark.parametrize(("name", "changes"), [("rivals", {"durability": "synch"}), ("workloads", {"store": "rockdb"})])
def test_a_level_that_is_misspelt_is_refused_before_anything_runs(name, changes):
    with pytest.raises(ParameterError, match=r"cannot be .*did you mean (sync|rocksdb)"):
        sweep.plan(spec.load(name), "quick", changes)
    known = {"store": {*baselines.STORES}, "durability": {*baselines.CLASSES}, "workload": {*MIXES, "trace"}}
    factors = spec.load(name).factors.values()
    assert all(known[factor.name] == set(factor.choices) for factor in factors if factor.name in known)


def test_a_ratio_is_made_within_a_repeat_and_in_the_strongest_class_of_both():
    made = []
    for repeat, slow in enumerate((1.0, 10.0)):
        for store, durability, rate in (
            ("ledger", "sync", 8e6), ("ledger", "none", 16e6), ("lmdb", "sync", 4e6), ("dict", "none", 32e6),
        ):  # fmt: skip
            place = {"repeat": repeat, "store": store, "durability": durability, "accounts": 10, "batch_rows": 5}
            place["after"] = "update"
            for operation in ("load", *analysis.MEASURES.values()):
                made.append({**place, "operation": operation, "status": "ok", "rows_per_s": rate / slow})
    rows = pd.DataFrame(made)
    found = analysis.figures(rows)
    for measure in analysis.MEASURES:
        names = [f"{{}}_{measure}_over_ours{end}" for end in ("", "_lo", "_hi")]
        assert [0.5] * 3 == [found[name.format("lmdb")] for name in names]
        assert [2.0] * 3 == [found[name.format("dict")] for name in names]
    assert "LMDB 0.5 [0.5, 0.5]" in analysis.answer(found)
    alone = rows[rows["store"] == "lmdb"]
    assert {} == analysis.figures(alone) and "(not measured)" in analysis.answer({})


@pytest.mark.slow
def test_a_run_gives_every_figure_and_its_notebook_runs(smoke):
    rows, text = smoke("rivals", "80-rivals.ipynb")
    assert {"ok", "not applicable"} == set(rows["status"].unique())
    assert 1 == rows["state_hash"].nunique()
    found = analysis.figures(rows)
    told = set(spec.load("rivals").figures) - {"ledger_put_us"}  # a median needs more calls than a smoke run makes
    assert told <= {name for name in found if not name.endswith(("_lo", "_hi"))}
    assert "all hashes equal" in text and "it promises nothing before it is closed" in text
