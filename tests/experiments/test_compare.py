"""Two stored runs side by side: what is called, what is not, and what cannot be told."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest

from experiments import __main__ as cli
from experiments import reproduce, runs, spec, sweep, workbench
from experiments.compare import Difference
from experiments.progress import Lines
from tests.experiments.conftest import SPEC


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Return a folder of results with two runs of the tiny experiment, really measured."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "tiny.toml").write_text(SPEC, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(runs.RESULTS_VARIABLE, str(folder / "results"))
        plan = sweep.plan(spec.load(folder / "tiny.toml"), "smoke", {"repeats": 3})
        ids = [sweep.run([plan], Lines()).id for _ in range(2)]
        for run_id in ids:  # what else runs on this machine is no part of the test
            doctor(run_id, facts=lambda manifest: manifest.update(noise=noise(1.0)))
    return folder / "results", ids


@pytest.fixture
def two(measured, tiny, results):
    """Return the ids of these runs, in a copy that a test may change."""
    shutil.copytree(measured[0], results)
    return measured[1]


def doctor(run_id, *, rows=None, facts=None):
    """Change the stored rows or the manifest of a run."""
    path = runs.find(run_id)
    if rows is not None:
        rows(pd.read_parquet(path / "rows.parquet")).to_parquet(path / "rows.parquet")
    if facts is not None:
        facts(manifest := runs.manifest(run_id))
        (path / "manifest.json").write_text(json.dumps(manifest))


def noise(memory_ms):
    return {"checks": [{"cache": {"p50_ms": 1.0}, "memory": {"p50_ms": memory_ms}}] * 2, "disturbed": False}


def times_slower(factor, column="rows_per_s", operation=None):
    def change(frame):
        chosen = slice(None) if operation is None else frame["operation"] == operation
        frame.loc[chosen, column] /= factor
        return frame

    return change


def call(capsys, *arguments):
    status = cli.main([*arguments, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_two_runs_of_the_same_are_no_regression_and_thirty_percent_are_one(two, capsys):
    status, found = call(capsys, "compare", *two)
    assert (0, "none") == (status, found["verdict"])
    assert {"experiment", "levels", "operation", "metric", "ratio", "lo", "hi", "verdict"} <= set(found["rows"][0])
    cells = [{"size": 1, "kind": "good"}, {"size": 2, "kind": "good"}, {}]
    assert cells == [row["levels"] for row in found["rows"]]
    doctor(two[1], rows=times_slower(1.3))
    status, found = call(capsys, "compare", *two)
    assert (1, "regression") == (status, found["verdict"])
    assert all(math.isclose(1.3, row["ratio"]) and "regression" == row["verdict"] for row in found["rows"])
    assert 0 == call(capsys, "compare", *two, "--threshold", "0.4")[0]
    assert 0 == call(capsys, "compare", *reversed(two))[0]


def test_one_slower_cell_is_a_regression_although_the_operation_as_a_whole_is_not(two, capsys):
    def change(frame):
        frame.loc[frame["size"] == 2, "rows_per_s"] /= 1.08
        return frame

    doctor(two[1], rows=change)
    status, found = call(capsys, "compare", *two)
    assert 1 == status
    called = [row for row in found["rows"] if row["verdict"] == "regression"]
    assert [{"size": 2, "kind": "good"}] == [row["levels"] for row in called]


def test_another_machine_forbids_a_verdict_and_is_named(two, capsys):
    doctor(two[1], rows=times_slower(1.3), facts=lambda manifest: manifest["machine"]["cpu"].update(model="Abacus"))
    status, found = call(capsys, "compare", *two)
    assert (2, "cannot tell") == (status, found["verdict"])
    assert "Abacus" in [item["b"] for item in found["machine_differences"] if item["what"] == "cpu.model"]
    assert {"other hardware"} == {row["reason"] for row in found["rows"]}
    assert 2 == cli.main(["compare", *two])
    assert "cpu.model" in capsys.readouterr().out


def test_another_version_is_named_and_forbids_nothing(two, capsys):
    doctor(two[1], facts=lambda manifest: manifest["machine"].update(python="9.9.9"))
    status, found = call(capsys, "compare", *two)
    assert 0 == status
    assert ["python"] == [item["what"] for item in found["machine_differences"]]


def test_noise_forbids_a_verdict(two, capsys):
    def scatter(frame):
        frame["rows_per_s"] *= np.exp(np.random.default_rng(1).normal(0, 0.2, len(frame)))
        return frame

    doctor(two[1], rows=scatter)
    status, found = call(capsys, "compare", *two)
    assert (2, "cannot tell") == (status, found["verdict"])


def test_a_machine_that_became_slower_by_its_own_fixed_work_is_no_regression(two, capsys):
    doctor(two[1], rows=times_slower(1.3), facts=lambda manifest: manifest.update(noise=noise(1.3)))
    status, found = call(capsys, "compare", *two)
    assert (2, "cannot tell") == (status, found["verdict"])
    assert "1.000 to 1.300 times as long in B" in found["notes"][0]


@pytest.mark.parametrize(
    "change", [lambda manifest: manifest.pop("noise"), lambda manifest: manifest["noise"].update(disturbed=True)]
)
def test_times_of_a_machine_that_was_not_seen_to_be_quiet_get_no_verdict(two, capsys, change):
    doctor(two[0], rows=times_slower(0.5), facts=change)
    status, found = call(capsys, "compare", *two)
    assert (2, "cannot tell") == (status, found["verdict"]) and all("machine" in row["reason"] for row in found["rows"])


def test_one_repeat_has_no_interval(two, capsys):
    for run_id in two:
        doctor(run_id, rows=lambda frame: frame[frame["repeat"] == 0])
    status, found = call(capsys, "compare", *two)
    assert 2 == status and {None} == {row["lo"] for row in found["rows"]}


def test_what_a_reference_of_the_same_trial_shares_is_no_regression(two, tiny, capsys):
    tiny.write_text(tiny.read_text().replace("[figures]", '[references]\nwork = "floor"\n\n[figures]'))

    def add_floor(frame):
        return pd.concat([frame, frame.assign(operation="floor", rows_per_s=3e6)])

    for run_id in two:
        doctor(run_id, rows=add_floor, facts=lambda manifest: manifest["noise"].update(disturbed=True))
    doctor(two[1], rows=times_slower(1.5))  # the whole machine
    status, found = call(capsys, "compare", *two)
    assert 0 == status and {"ns_per_row over floor"} == {row["metric"] for row in found["rows"]}
    doctor(two[1], rows=times_slower(1.3, operation="work"))
    assert 1 == call(capsys, "compare", *two)[0]


def test_a_run_with_failed_trials_is_no_all_clear(two, capsys):
    doctor(two[1], facts=lambda manifest: manifest.update(failed=1))
    status, found = call(capsys, "compare", *two)
    assert (2, "cannot tell", ["B has 1 failed trials"]) == (status, found["verdict"], found["notes"])


def test_rows_that_mean_something_else_are_left_out_and_named(two, capsys):
    doctor(two[1], facts=lambda manifest: manifest["experiments"]["tiny"]["parameters"].update(rows=99))
    status, found = call(capsys, "compare", *two)
    assert 2 == status and not found["rows"] and "other rows" in found["notes"][0]


def test_wrong_calls_are_told_from_verdicts_by_their_words(two, capsys):
    assert 2 == cli.main(["compare", two[0], two[1][:-1] + "X"])
    assert two[1] in capsys.readouterr().err
    assert 2 == cli.main(["compare", *two, "--threshold", "-1"])
    assert "threshold is -1" in capsys.readouterr().err


def test_a_comparison_shows_itself_as_tables(two):
    doctor(two[1], facts=lambda manifest: manifest["machine"].update(kernel="<b>"))
    found = workbench.compare(*two)
    assert [Difference("kernel", found.differences[0].a, "<b>")] == found.differences
    shown = found._repr_html_()
    assert shown.startswith('<div class="table"><table>') and "<b>" not in shown and "all together" in shown
    assert "verdict: none" in str(found)


# ---------------------------------------------------------------- a stored run measured again
def test_a_strangers_folder_is_measured_again_and_its_figures_are_set_beside_ours(two, results, tmp_path, capsys):
    folder = tmp_path / "a stranger's"
    shutil.copytree(runs.find(two[0]), folder)
    shutil.rmtree(results)
    status, found = call(capsys, "reproduce", str(folder))
    assert (0, "reproduced") == (status, found["verdict"])
    assert two[0] == found["theirs"] and found["ours"] in [path.name for path in (results / "runs").iterdir()]
    (figure,) = found["figures"]
    assert ("work_rows_per_s", 0.75e6, 1.0) == (figure["figure"], figure["ours"], figure["ratio"])


def test_a_figure_that_is_another_one_here_differs_unless_the_machine_is_another_one(two):
    doctor(two[1], rows=times_slower(1.3))
    found = reproduce.beside(*(str(runs.find(run_id)) for run_id in two))
    assert ["differs"] == [figure.verdict for figure in found.figures]
    doctor(two[1], facts=lambda manifest: manifest["machine"]["cpu"].update(usable=99))
    found = reproduce.beside(*(str(runs.find(run_id)) for run_id in two))
    assert ("cannot tell", "other hardware") == (found.figures[0].verdict, found.figures[0].reason)


def test_a_smaller_rerun_counts_only_cells_that_both_have_and_says_so(two, capsys):
    status, found = call(capsys, "reproduce", str(runs.find(two[0])), "--set", "size=2", "--repeats", "2")
    assert 0 == status and [0.5e6] == [figure["theirs"] for figure in found["figures"]]
    assert "tiny: sizes is [2] here, [1, 2] there" in found["notes"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda item: item["tiny"]["parameters"].update(colour=["red"]), "tiny has no parameter colour"),
        (lambda item: item.update(tinny=item.pop("tiny")), "did you mean tiny"),
        (lambda item: item["tiny"].pop("parameters"), "not that of a stored run"),
    ],
    ids=("parameter", "experiment", "manifest"),
)
def test_what_cannot_be_measured_again_is_refused_before_anything_runs(two, results, capsys, change, words):
    doctor(two[0], facts=lambda manifest: change(manifest["experiments"]))
    before = sorted((results / "runs").iterdir())
    assert 2 == cli.main(["reproduce", str(runs.find(two[0]))])
    assert words in capsys.readouterr().err
    assert before == sorted((results / "runs").iterdir())
