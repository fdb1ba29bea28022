"""What the long lane says, and when it fails."""

from __future__ import annotations

import importlib
import json

import pytest
from click.testing import CliRunner

lane = importlib.import_module("tests.crash.__main__")


def keeps(result, folder):
    result.sums.update(images=3, canaries=1, canaries_caught=1)


def breaks(result, folder):
    result.violations.append("seed 1, cut 2")


def raises(result, folder):
    raise ZeroDivisionError


def misses(result, folder):
    result.sums.update(canaries=1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork beside threads: none of them is needed
@pytest.mark.parametrize(("task", "broken"), [(keeps, 0), (breaks, 1), (raises, 1), (misses, 0)])
def test_the_lane_fails_on_a_broken_promise_and_on_a_wrong_engine_that_passes(monkeypatch, task, broken):
    monkeypatch.setattr(lane, "tasks", lambda quick: iter([("cuts", "one", task, ())]))
    done = CliRunner().invoke(lane.main, [])
    last = json.loads(done.stdout.splitlines()[-1])
    assert {*lane.SUMS, "violations", "seconds"} == set(last)
    assert (int(task is not keeps), broken) == (done.exit_code, last["violations"])
    assert broken == done.stdout.count("VIOLATION")


def test_every_part_has_tasks_in_both_lengths():
    short, long = (list(lane.tasks(quick)) for quick in (True, False))
    assert {task[0] for task in short} == {task[0] for task in long}
    assert len(short) < len(long)
