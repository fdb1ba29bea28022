"""Runs on disk, tables, and intervals."""

from __future__ import annotations

import nbformat
import pytest

from experiments import journal, report, runs, tables
from experiments.analysis import common
from experiments.errors import RunNotFoundError
from experiments.measure import Histogram

PLACE = {"experiment": "tiny", "trial": 0, "operation": "work"}


def make(rows, histograms=()):
    run = runs.Run.create(["tiny"], "smoke", {"experiments": {}})
    run.add(rows, histograms)
    return run


def test_whole_numbers_above_2_53_stay_exact_even_beside_missing_ones(results):
    rows = [
        {**PLACE, "status": "ok", "big": 2**60 + 1, "huge": 2**64 - 1},
        {**PLACE, "status": "ok", "big": None, "huge": None},
    ]
    found = runs.load(make(rows).id, "tiny")
    assert 2**60 + 1 == found["big"][0]
    assert 2**64 - 1 == found["huge"][0]
    shown = tables.to_html(found[["big", "huge"]])
    assert "1152921504606846977" in shown and "18446744073709551615" in shown and "–" in shown


def test_a_column_of_mixed_kinds_becomes_text_and_not_an_error(results):
    found = runs.load(make([{**PLACE, "x": 1}, {**PLACE, "x": "one"}]).id, "tiny")
    assert ["1", "one"] == list(found["x"])


def test_histograms_come_back_by_trial_and_operation(results):
    histogram = Histogram.of([5, 5, 1_000_000])
    run = make([PLACE], [{**PLACE, "kind": "latency", **journal.histogram_pairs(histogram)}])
    found = runs.histograms(runs.load(run.id, "tiny"))[(0, "work")]
    assert (3, 1_000_000, 1_000_010) == (found.n, found.max, found.sum)


def test_two_runs_in_one_second_have_folders_of_their_own(results):
    assert 5 == len({make([PLACE]).id for _ in range(5)})


def test_an_unknown_run_is_named_with_the_nearest(results):
    run = make([PLACE])
    with pytest.raises(RunNotFoundError, match=run.id):
        runs.load(run.id[:-1], "tiny")
    assert run.path == runs.find(str(run.path)).resolve()


def test_a_figure_and_its_interval_are_one_row_with_one_meaning():
    found = {"gain": 2.0, "gain_lo": 1.5, "gain_hi": 2.5, "share": 0.5, "other_hi": 1.0}
    shown = common.figure_rows(found, {"gain": "a over b"})
    assert {"figure": "gain", "value": 2.0, "lo": 1.5, "hi": 2.5, "meaning": "a over b"} == shown[0]
    assert ["gain", "share", "other_hi"] == [row["figure"] for row in shown]
    assert (None, "") == (shown[1]["lo"], shown[1]["meaning"])


def test_tables_escape_text_and_align_numbers():
    shown = tables.to_html([{"<b>": "<script>alert(1)</script> & é", "n": 2**60 + 1, "x": 0.1234567, "y": None}])
    assert "<script>" not in shown and "<b>" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; é" in shown
    assert '<td class="number">1152921504606846977</td>' in shown


def test_a_published_notebook_does_not_name_the_folders_of_the_machine(tmp_path):
    path = tmp_path / "one.ipynb"
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["papermill"] = {"input_path": "/home/me/in.ipynb", "output_path": "/home/me/out.ipynb", "x": 1}
    nbformat.write(notebook, path)
    report._forget_folders(path)
    noted = nbformat.read(path, as_version=4).metadata["papermill"]
    assert {"input_path": "in.ipynb", "output_path": "out.ipynb", "x": 1} == noted
