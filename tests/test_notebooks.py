"""Notebooks: their form, that they agree with their specs, and that they run."""

from __future__ import annotations

import ast
import json
import time

import nbformat
import pytest

from experiments import notebooks, runs, spec, workbench
from experiments.errors import NotebookError, ParameterError

PATHS = sorted(spec.NOTEBOOKS.glob("*.ipynb"))
SPECS = {item.notebook: item for item in map(spec.load, spec.names())}


def read(path):
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def code(path):
    return ["".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
class TestForm:
    def test_outputs_are_stripped(self, path):
        for cell in read(path)["cells"]:
            assert cell["cell_type"] != "code" or ([], None) == (cell["outputs"], cell["execution_count"])

    def test_cells_hold_no_logic(self, path):
        refused = (ast.FunctionDef, ast.ClassDef, ast.Try, ast.AsyncFunctionDef)
        for source in code(path):
            assert not any(isinstance(node, refused) for node in ast.walk(ast.parse(source))), source
            assert "perf_counter" not in source and "import time" not in source

    def test_the_parameters_are_literals_at_the_size_of_a_test(self, path):
        found = notebooks.parameters(_Notebook(read(path)))
        assert found
        if path.name in SPECS:
            item = SPECS[path.name]
            assert found == item.defaults("smoke") and set(found) == item.parameters

    def test_it_begins_with_a_question_and_stays_short(self, path):
        cells = read(path)["cells"]
        assert cells[0]["cell_type"] == "markdown" and "**Question.**" in "".join(cells[0]["source"])
        assert len(cells) <= 16


class _Notebook:
    """What `notebooks.parameters` reads of a notebook."""

    def __init__(self, content):
        self.cells = [_Cell(cell) for cell in content["cells"]]


class _Cell:
    def __init__(self, cell):
        self.metadata, self.source = cell["metadata"], "".join(cell["source"])


def test_every_spec_has_its_notebook():
    assert set(SPECS) <= {path.name for path in PATHS}


def run(path, target, **parameters):
    notebooks.execute(path, target, parameters)
    return read(target)


@pytest.fixture
def results(tmp_path, monkeypatch):
    folder = tmp_path / "a b é{x} #1"
    monkeypatch.setenv(runs.RESULTS_VARIABLE, str(folder))
    return folder


def by_name(name):
    return spec.NOTEBOOKS / spec.load(name).notebook


def texts(executed):
    outputs = [output for cell in executed["cells"] for output in cell.get("outputs", [])]
    return ["".join(output.get("text", "")) + str(output.get("data", "")) for output in outputs]


def test_a_notebook_measures_once_and_reads_its_rows_again(results, tmp_path):
    path, target = by_name("capacity"), results / "out {y}.ipynb"
    run(path, target, load_factors="[0.5, 0.6]", accounts=[500])
    (made,) = (results / "runs").iterdir()
    rows = runs.load(made.name, "capacity")
    assert {0.5, 0.6} == set(rows["load_factor"]) and {"ok"} == set(rows["status"])
    shown = texts(run(path, target, load_factors=[0.5, 0.6], accounts=[500]))
    assert any(f"read from run {made.name}" in text for text in shown)
    assert [made] == list((results / "runs").iterdir())
    assert any("image/svg+xml" in text for text in shown)
    assert any("all hashes equal" in text for text in shown)


def test_a_parameter_that_is_not_there_is_refused_before_the_kernel_starts(tmp_path):
    with pytest.raises(ParameterError, match="did you mean load_factors"):
        run(by_name("capacity"), tmp_path / "o.ipynb", load_factor=[0.5])
    with pytest.raises(ParameterError, match="rows_per_trial is nan"):
        run(by_name("capacity"), tmp_path / "o.ipynb", rows_per_trial=float("nan"))
    assert not (tmp_path / "o.ipynb").exists()


def test_every_value_arrives_in_the_notebook_as_it_was_given(tmp_path):
    given = {
        "truth": True, "word": "True", "nothing": None, "largest": 2**64 - 1, "beyond": 2**200, "digits": "007",
        "zero": -0.0, "small": 5e-324, "text": "é \\ \" ' {x} \n", "lists": [1, [2.5, None]], "table": {"a b": False},
    }  # fmt: skip
    notebook = nbformat.v4.new_notebook(metadata=read(by_name("capacity"))["metadata"])
    defaults = "\n".join(f"{name}: object = 0" for name in given)
    notebook.cells = [
        nbformat.v4.new_code_cell(defaults, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(f"print(ascii([{', '.join(given)}]))"),
    ]
    path, target = tmp_path / "values.ipynb", tmp_path / "o.ipynb"
    nbformat.write(notebook, path)
    assert f"{list(given.values())!a}\n" in texts(run(path, target, **given))[0]
    for value in (float("nan"), float("inf"), float("-inf"), (1,), {1: 2}, b"x"):
        with pytest.raises(ParameterError, match="lists"):
            run(path, tmp_path / "none.ipynb", lists=value)
    assert not (tmp_path / "none.ipynb").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rows_per_trial": float("inf")}, "rows_per_trial is inf"),
        ({"rows_per_trial": "007"}, "rows_per_trial is '007', a str"),
        ({"rows_per_trial": None}, "rows_per_trial is None"),
        ({"keys": 7}, "keys is 7, a int"),
        ({"load_factors": [0.5, True]}, "load_factors is True"),
        ({"load_factors": 2**64 - 1}, "load_factors is 18446744073709551615"),
        ({"load_factor": [0.5], "row_per_trial": 1}, "did you mean rows_per_trial"),
    ],
    ids=str,
)
def test_a_wrong_value_in_a_cell_is_refused_by_its_name(given, words):
    with pytest.raises(ParameterError, match=words):
        workbench.plan("capacity", **given)


def test_what_to_read_and_whether_to_measure_again_are_of_their_kinds():
    plan = workbench.plan("capacity", rows_per_trial=2**64 - 1)
    assert 2**64 - 1 == plan.workload["rows_per_trial"]
    with pytest.raises(ParameterError, match="rerun is 'no'"):
        workbench.run(plan, rerun="no")
    with pytest.raises(ParameterError, match="run_id is None"):
        workbench.run(plan, run_id=None)


def test_a_mistyped_parameter_given_to_papermill_itself_stops_the_notebook(results, tmp_path):
    import papermill
    from papermill.exceptions import PapermillExecutionError

    with notebooks._own_jupyter(), pytest.raises(PapermillExecutionError, match="did you mean load_factors"):
        papermill.execute_notebook(
            str(by_name("capacity")), str(tmp_path / "o.ipynb"), parameters={"load_factor": [0.5]}, progress_bar=False
        )
    assert not (results / "runs").exists()


def test_a_kernel_that_dies_is_an_error_in_seconds(tmp_path):
    content = read(by_name("capacity"))
    content["cells"][2]["source"] = "import os\nos.kill(os.getpid(), 9)"
    path = tmp_path / "dies.ipynb"
    path.write_text(json.dumps(content))
    started = time.monotonic()
    with pytest.raises(NotebookError, match=r"dies\.ipynb stopped"):
        run(path, tmp_path / "o.ipynb")
    assert time.monotonic() - started < 60


def test_the_tour_runs(tmp_path, results):
    executed = run(spec.NOTEBOOKS / "00-tour.ipynb", tmp_path / "o.ipynb", accounts=500)
    assert any("400 accounts" in text for text in texts(executed))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hugepages", "prefetch", "durability"])
def test_every_experiment_runs_at_the_size_of_a_test(results, tmp_path, name):
    shown = texts(run(by_name(name), tmp_path / "o.ipynb"))
    assert any("all hashes equal" in text for text in shown)
