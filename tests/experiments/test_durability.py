"""The durability experiment: that calls share frames, meet checkpoints, and come to the same accounts."""

from __future__ import annotations

import pytest

from experiments import spec
from experiments.analysis import durability as analysis
from experiments.trial import Trial
from experiments.trials import durability


def trial(folder, part, **workload):
    item = spec.load("durability")
    factors = {"durability": "sync", "storage": "private", "batch_rows": 1, "arrival_calls_per_s": 0.0, "part": part}
    folder.mkdir()
    chosen = item.workload["smoke"] | {"accounts": 1_000, "spare_accounts": 500} | workload
    return Trial("durability", item.trial, 0, 0, 0, factors, chosen, 1, 60.0, folder)


def numbers(outcome):
    return {operation.name: operation.numbers for operation in outcome.operations}


def test_threads_share_frames_and_leave_the_same_accounts_in_any_order(tmp_path):
    chosen = {"group_callers": [1, 8], "group_rows": [1], "group_calls": 160}
    one, two = (durability.measure(trial(tmp_path / name, "group", **chosen)) for name in ("one", "two"))
    assert one.state_hash == two.state_hash
    found = numbers(one)
    assert 1.0 == found["group_1x1"]["batches_per_frame"] < found["group_8x1"]["batches_per_frame"]
    assert {160} == {row["calls"] for row in found.values()} == {row["latency_ns_count"] for row in found.values()}


def test_waiting_and_handing_over_have_their_turns_with_the_same_batches(tmp_path):
    outcome = durability.measure(trial(tmp_path / "submit", "submit", submit_rounds=3))
    assert "blocking submit submit blocking blocking submit".split() == [op.name for op in outcome.operations]
    assert {(40, 400, 0)} == {(row["calls"], row["rows"], row["checkpoints"]) for row in numbers(outcome).values()}


def test_calls_that_met_a_checkpoint_are_told_from_the_others(tmp_path):
    chosen = {"checkpoint_s": 0.6, "checkpoint_rows": 64, "checkpoint_calls_per_s": 500.0}
    outcome = durability.measure(trial(tmp_path / "beside", "checkpoints", **chosen))
    found = numbers(outcome)
    beside, between = (found[name] for name in analysis._BESIDE)
    assert 300 == beside["calls"] + between["calls"] and beside["calls"] > 0 < between["calls"]
    assert beside["checkpoints"] > 0 == between["checkpoints"]
    spans = [op.numbers for op in outcome.operations if op.name == "checkpoint"]
    assert 0 < len(spans) <= beside["checkpoints"] + 1 and all(span["at_s"] <= span["until_s"] for span in spans)


@pytest.mark.slow
def test_a_run_gives_every_figure_but_those_that_need_a_thousand_calls(smoke):
    rows, _ = smoke("durability")
    found = analysis.figures(rows)
    missing = {"sync_single_p99_us", "group_single_p99_us", "checkpoint_p99_ratio", "checkpoint_p99_us"}
    assert set(spec.load("durability").figures) - missing == {n for n in found if not n.endswith(("_lo", "_hi"))}
    assert len(analysis.headline(rows)) == 2 and not analysis.beside_table(rows).empty
    assert (analysis.table(rows)["checkpoints"].dropna() == 0).all()
    modes = rows[rows["part"] == "modes"].dropna(axis="columns", how="all")
    for alone in (modes, modes.drop(columns="part")):  # as stored before there were parts
        assert not any(name.startswith(("group", "submit", "checkpoint")) for name in analysis.figures(alone))
        tables = (analysis.group_table, analysis.submit_table, analysis.beside_table)
        assert {None} == {table(alone) for table in tables} and not analysis.table(alone).empty
        assert None is analysis.group_panel(alone) is analysis.checkpoint_panel(alone)
        assert 1 == len(analysis.headline(alone))
    others = rows[rows["part"] != "modes"].dropna(axis="columns", how="all")
    assert {"group_gain", "submit_over_blocking"} <= set(analysis.figures(others)) < set(found)
    assert 1 == len(analysis.headline(others)) and analysis.answer(analysis.figures(others))
    assert None is analysis.table(others) is analysis.over_none_panel(others) is analysis.latency_panel(others, min)
