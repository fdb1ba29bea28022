"""An experiment of one's own: what the README says, done for real, and a trial beside its spec."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

from experiments import runs, spec, sweep
from tests.experiments import tiny as tiny_trial
from tests.experiments.conftest import SPEC

ROOT = runs.ROOT


@pytest.mark.slow
def test_a_copied_spec_and_notebook_are_a_new_experiment_as_the_readme_says(tmp_path, results):
    (block,) = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(block.splitlines()) <= 10
    for name in ("experiments", "notebooks"):
        (tmp_path / name).symlink_to(ROOT / name)
    commands = block.replace(".venv/bin/python", sys.executable)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-ec", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert 0 == done.returncode, done.stderr
    page = tmp_path / done.stdout.splitlines()[-1]
    html = page.read_text(encoding="utf-8")
    assert "<h2>mine</h2>" in html and "The notebook of mine" in html
    rows = runs.load(page.parent.name, "mine")
    assert {"ok"} == set(rows["status"]) and 8 == len(rows)
    assert (page.parent / "notebooks" / "mine.ipynb").is_file()


def test_a_trial_may_lie_beside_its_spec(tmp_path, results):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "own.toml").write_text(SPEC.replace("tests.experiments.tiny", "own_trial_beside_its_spec"))
    trial = folder / "own_trial_beside_its_spec.py"
    shutil.copy(tiny_trial.__file__, trial)
    call = [sys.executable, "-m", "experiments", "run", "own", "--profile", "smoke", "--repeats", "1"]
    environment = {**os.environ, spec.SPECS_VARIABLE: str(folder), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert 0 == done.returncode, done.stderr
    rows = runs.load((tmp_path / done.stdout.strip()).parent.name, "own")
    assert {"ok"} == set(rows["status"])


def test_a_change_of_a_trial_beside_its_spec_makes_another_plan(tiny):
    before = sweep.plan(spec.load(tiny)).digest
    assert before == sweep.plan(spec.load(tiny)).digest
    (tiny.parent / "trial.py").write_text("x = 1\n")
    assert before != sweep.plan(spec.load(tiny)).digest
