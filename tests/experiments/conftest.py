"""A tiny experiment in a folder of its own, and results that go to another."""

from __future__ import annotations

import subprocess
import sys

import pytest

from experiments import notebooks, progress, runs, spec, sweep

SPEC = """
question = "Does the <script>alert(1)</script> & é harness work?"
expectation = "It does."
trial = "tests.experiments.tiny:measure"
timeout_s = 1.5
repeats = { smoke = 2, quick = 2, standard = 2, full = 2 }

[factors.size]
unit = "units"
text = "a size"
smoke = [1, 2]
quick = [1, 2]
standard = [1, 2]
full = [1, 2]

[factors.kind]
parameter = "kinds"
smoke = ["good"]
quick = ["good", "raises"]
standard = ["good", "raises", "dies", "hangs"]
full = ["slow"]

[workload]
rows = 10
share = 0.5
[workload.quick]
rows = 20

[figures]
work_rows_per_s = "rows a second"

[[not_applicable]]
when = { size = 2, kind = ["raises", "dies", "hangs"] }
reason = "once is enough"
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Return the path of the tiny spec; its folder is one of specs now."""
    folder = tmp_path / "specs"
    folder.mkdir()
    path = folder / "tiny.toml"
    path.write_text(SPEC, encoding="utf-8")
    monkeypatch.setenv(spec.SPECS_VARIABLE, str(folder))
    return path


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Send runs to a folder whose name papermill would take for a template."""
    folder = tmp_path / "a b é{x} #1"
    monkeypatch.setenv(runs.RESULTS_VARIABLE, str(folder))
    return folder


@pytest.fixture
def smoke(results, tmp_path):
    """Return a function that runs an experiment at profile "smoke" and a notebook over it: its rows and the text."""

    def run(name, notebook=None):
        done = sweep.run([sweep.plan(spec.load(name), "smoke")], progress.for_stream())
        if notebook is None:
            return runs.load(done.id, name), ""
        notebooks.execute(spec.NOTEBOOKS / notebook, tmp_path / "out.ipynb", {"run_id": done.id})
        return runs.load(done.id, name), (tmp_path / "out.ipynb").read_text(encoding="utf-8")

    return run


@pytest.fixture
def call(tiny, results):
    """Return a function that runs the command line in a process of its own."""

    def run(*arguments, **options):
        command = [sys.executable, "-m", "experiments", *arguments]
        return subprocess.run(
            command, cwd=runs.ROOT, capture_output=True, text=True, timeout=120, check=False, **options
        )

    return run
