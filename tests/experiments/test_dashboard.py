"""The dashboard shows what is stored, with and without a front end."""

from __future__ import annotations

import json
import re

import pytest

from experiments import notebooks, runs, spec, stored, sweep
from experiments.dashboard import Dashboard
from experiments.errors import ParameterError, RunNotFoundError
from experiments.progress import Lines


@pytest.fixture
def run(tiny, results):
    """Measure the tiny experiment; gives the run."""
    return sweep.run([sweep.plan(spec.load(tiny), "smoke", {"repeats": 3})], Lines())


def cells(html):
    return re.findall(r"<td[^>]*>([^<]*)", html)


def test_choices_change_what_is_shown_and_whole_numbers_stay_exact(run):
    board = Dashboard()
    assert ["1", "good", "3", "1,000,000"] == cells(board.html)[:4]
    assert 2 == board.html.count("<svg")
    board.choose(metric="big", factor="kind")
    exact = str(2**60 + 1)
    assert ["1", "good", "3", exact, exact, exact] == cells(board.html)[:6]
    board._choosers["metric"].value = "rows"
    assert "work: rows, medians" in board.html, "a click is followed"
    assert board.html == board._repr_mimebundle_()["text/html"]


@pytest.mark.parametrize(
    ("wanted", "kind", "words"),
    [
        ({"metric": "rows_per_ss"}, ParameterError, "did you mean rows_per_s"),
        ({"experiment": "tinny"}, ParameterError, "did you mean tiny"),
        ({"run": "tiny"}, RunNotFoundError, "there is no run tiny"),
    ],
)
def test_what_is_not_there_is_refused_with_the_nearest_name(run, wanted, kind, words):
    with pytest.raises(kind, match=words):
        Dashboard(**wanted)


def test_a_run_shows_itself_with_speed_and_latency_as_pictures(run):
    shown = run._repr_html_()
    assert ["tiny", "work", "6"] == cells(shown)[:3]
    labels = re.findall(r'aria-label="([^"]*)"', shown)
    assert "rows/s of 2 cells" == labels[0] and labels[1].startswith("calls by latency, 0.896")
    assert [run.id] == list(stored.all_runs().frame["id"])


def test_the_notebook_runs_without_a_front_end_and_where_nothing_is_stored(results, tmp_path):
    notebooks.execute(spec.NOTEBOOKS / "01-runs.ipynb", tmp_path / "o.ipynb", {})
    (output,) = json.loads((tmp_path / "o.ipynb").read_text())["cells"][-1]["outputs"]
    assert "no stored run" in "".join(output["data"]["text/html"])
    assert not (results / "runs").exists() or not runs.ids()
