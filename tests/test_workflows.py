"""The workflows of GitHub Actions, which cannot run here: every command in them exists, and they ask for little."""

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from experiments import __main__ as cli
from experiments import runs, spec

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PATHS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PYTHONS = [found[1] for line in PROJECT["classifiers"] if (found := re.fullmatch(r".* :: (3\.\d+)", line))]
WORKFLOWS = {path.stem: yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader) for path in PATHS}
STEPS = [
    pytest.param(step, id=f"{name}-{job}-{number}")
    for name, workflow in WORKFLOWS.items()
    for job, content in workflow["jobs"].items()
    for number, step in enumerate(content["steps"])
]


def test_both_workflows_are_there_and_ask_for_no_more_than_they_need():
    assert {"ci", "release"} == set(WORKFLOWS)
    assert {"contents": "read"} == WORKFLOWS["ci"]["permissions"]
    assert {} == WORKFLOWS["release"]["permissions"]
    granted = [job.get("permissions") for workflow in WORKFLOWS.values() for job in workflow["jobs"].values()]
    assert [{"contents": "write"}] == [item for item in granted if item]
    assert {"tags": ["v*"]} == WORKFLOWS["release"]["on"]["push"]
    assert all("timeout-minutes" in job for workflow in WORKFLOWS.values() for job in workflow["jobs"].values())
    assert "secrets." not in "".join(path.read_text(encoding="utf-8") for path in PATHS)


def test_the_tests_run_on_every_python_of_the_classifiers():
    assert PYTHONS == WORKFLOWS["ci"]["jobs"]["test"]["strategy"]["matrix"]["python"]


@pytest.mark.parametrize("step", STEPS)
def test_a_step_uses_what_exists(step):
    assert ("uses" in step) != ("run" in step)
    if "uses" in step:
        assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|[0-9a-f]{40})", step["uses"])
        chosen = step.get("with", {})
        assert chosen.get("python-version", PYTHONS[-1]) in [*PYTHONS, "${{ matrix.python }}"]
        for name in re.findall(r"hashFiles\('([^']+)'\)", chosen.get("key", "")):
            assert (ROOT / name).is_file()
        if step["uses"].startswith("actions/upload-artifact@"):
            assert runs.ROOT / chosen["path"] == runs.ROOT / "results" / "runs"
        return
    commands = step["run"]
    assert "${{" not in commands, "what others can write does not belong into a command"
    subprocess.run(["bash", "-n", "-c", commands], check=True)
    for line in commands.splitlines():
        if line.startswith("make "):
            subprocess.run(["make", "--dry-run", *line.split()[1:]], cwd=ROOT, check=True, capture_output=True)
        for profile in re.findall(r"PROFILE=(\w+)", line):
            assert profile in spec.PROFILES
        for module in re.findall(r"\.venv/bin/python -m ([\w.]+)", line):
            assert importlib.util.find_spec(module) is not None
        for arguments in re.findall(r"-m experiments (.*)", line):
            assert cli._parser().parse_args(arguments.split()).command
        for name in re.findall(r"--requirement (\S+)", line):
            assert (ROOT / name).is_file()
        for name in re.findall(r"bin/(geoledger)\b|dist/(\w+)-", line):
            assert name[0] in PROJECT["scripts"] or name[1] == PROJECT["name"]
        assert all("==" in package for package in re.findall(r"pipx run (\S+)", line))
