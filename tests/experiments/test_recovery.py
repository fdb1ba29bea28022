"""The recovery experiment: what it kills and opens, what it makes of the times, and what it has no room for."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from experiments import spec
from experiments.analysis import recovery as analysis
from experiments.errors import NotApplicableError
from experiments.trial import Trial
from experiments.trials import recovery

TINY = {"log_mibs": [1, 2], "openings": 2, "shards": 2, "load_s": 0.2}


def trial(folder, part, accounts=3_000, target=0.0):
    item = spec.load("recovery")
    factors = {"part": part, "accounts": accounts, "recovery_target_s": target, "keys": "uniform"}
    folder.mkdir()
    return Trial("recovery", item.trial, 0, 0, 0, factors, item.workload["smoke"] | TINY, 1, 60.0, folder)


def opened(outcome, **levels):
    rows = [operation.numbers for operation in outcome.operations if operation.name == "open"]
    return [row for row in rows if all(row[name] == level for name, level in levels.items())]


def test_every_opening_meets_its_situation_and_equal_trials_leave_equal_accounts(tmp_path):
    one, two = (recovery.measure(trial(tmp_path / name, "size")) for name in ("one", "two"))
    assert one.state_hash == two.state_hash is not None
    for row in opened(one, situation="clean"):
        assert (0, 0, 0) == (row["frames"], row["log_bytes"], row["indexes_rebuilt"])
    for row in opened(one, situation="index lost"):
        assert row["indexes_rebuilt"] == TINY["shards"] and row["check_index_ms"] > 0
    for mib in TINY["log_mibs"]:
        (length,) = {row["log_bytes"] for row in opened(one, situation="killed", log_mib=mib)}
        assert 0.9 * mib < length / (1 << 20) <= mib
    assert {2, 1} == {len(opened(one, situation="killed", log_mib=2, cache=cache)) for cache in ("warm", "cold")}


def test_a_kill_in_the_middle_of_a_load_leaves_no_more_log_than_the_target_allows(tmp_path):
    outcome = recovery.measure(trial(tmp_path / "load", "load", target=0.01))
    (wrote,) = (operation.numbers for operation in outcome.operations if operation.name == "write")
    rows = opened(outcome, round=0)
    assert wrote["checkpoints"] > 0 and wrote["rows_per_s"] > 0 and {"warm", "cold"} == {row["cache"] for row in rows}
    frame = 1 << 20  # what may be under way when the bound is reached
    assert all(row["log_bytes"] <= wrote["log_limit_bytes"] + frame for row in rows)


def test_a_ledger_that_the_machine_has_no_room_for_is_refused_with_the_numbers(tmp_path):
    with pytest.raises(NotApplicableError, match=r"2,000,000,000 accounts need \d+\.\d GiB of memory"):
        recovery.measure(trial(tmp_path / "large", "size", accounts=2_000_000_000))
    assert [] == list((tmp_path / "large").iterdir())


def test_the_fit_finds_the_curve_that_the_times_were_made_of():
    def touched(n, log_rows):
        return n / 32 * (1 - math.exp(-log_rows / (n / 32)))

    common = {"status": "ok", "part": "size", "cache": "warm"}
    made = []
    for n in (1_000_000, 4_000_000, 16_000_000):
        made.append({"operation": "read", "accounts": n, "read_ms": n * 5e-5})
        opening = {"operation": "open", "accounts": n, "redo_rows": 0}
        made.append({**opening, "situation": "clean", "open_ms": 3.0})
        made.append({**opening, "situation": "index lost", "open_ms": n * 1e-4})
        for log_rows in (10_000, 100_000, 1_000_000):
            time = 40.0 + n * 2e-6 + log_rows * 1e-4 + touched(n, log_rows) * 7e-3
            made.append({**opening, "situation": "killed", "redo_rows": log_rows, "open_ms": time})
    rows = pd.DataFrame([{**common, **row} for row in made])
    found = analysis.fits(rows, "warm").set_index("opening")
    large = 1 << 28
    wanted = {
        "closed": 3.0,
        "killed": 40.0 + large * 2e-6 + 1e6 * 1e-4 + touched(large, 1e6) * 7e-3,
        "indexes lost": large * 1e-4,
        "reading once": large * 5e-5,
    }
    for name, time in wanted.items():
        assert time == pytest.approx(found.loc[name, "32 GiB, ms"], rel=1e-4)
        assert found.loc[name, "worst relative error"] < 1e-6


@pytest.mark.slow
def test_a_run_gives_every_figure_and_its_notebook_runs(smoke):
    rows, text = smoke("recovery", "32-recovery.ipynb")
    assert ["ok"] == list(rows["status"].unique())
    found = analysis.figures(rows)
    assert set(spec.load("recovery").figures) == {name for name in found if not name.endswith(("_lo", "_hi"))}
    assert "not measured" not in analysis.answer(found) and len(analysis.headline(rows)) == 2
    for part, names in {"size": ("fits", "table"), "load": ("load_table",)}.items():
        alone = rows[rows["part"] == part].dropna(axis="columns", how="all")
        assert 1 == len(analysis.headline(alone)) and set(analysis.figures(alone)) < set(found)
        assert analysis.answer(analysis.figures(alone))
        for name in ("fits", "table", "load_table"):
            shown = getattr(analysis, name)(alone, *(["warm"] if name == "fits" else []))
            assert shown.empty is (name not in names)
    assert "all hashes equal" in text
