"""From plan to run: order, processes, failures, interruption, and the page at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from experiments import __main__ as cli
from experiments import runs, spec, sweep
from tests.experiments.test_page import assert_offline

ROOT = runs.ROOT


def test_levels_are_interleaved_in_an_order_that_the_seed_fixes(tiny):
    item = spec.load(tiny)
    changes = {"sizes": [1, 2, 3, 4, 5, 6], "repeats": 4}
    one, two = (sweep.plan(item, "smoke", changes) for _ in range(2))
    order = [(repeat, cell.number) for repeat, cell in one.order()]
    assert order == [(repeat, cell.number) for repeat, cell in two.order()]
    for repeat in range(4):
        assert {(repeat, number) for number in range(6)} == set(order[repeat * 6 : repeat * 6 + 6])
    assert len({tuple(number for r, number in order if r == repeat) for repeat in range(4)}) > 1
    other = sweep.plan(item, "smoke", {**changes, "seed": 2})
    assert order != [(repeat, cell.number) for repeat, cell in other.order()]
    assert one.digest == two.digest != other.digest


def test_a_cell_that_cannot_exist_is_named_and_not_run(tiny):
    plan = sweep.plan(spec.load(tiny), "standard")
    assert ["once is enough"] * 3 == [cell.reason for cell in plan.cells if cell.reason]
    assert 5 * 2 == plan.trials


def test_a_run_goes_on_past_trials_that_fail_die_or_hang(call, results):
    done = call("run", "tiny", "--profile", "standard", "--repeats", "1", "--json")
    assert 1 == done.returncode, done.stderr
    line = json.loads(done.stdout)
    assert (5, 3) == (line["trials"], line["failed"])
    rows = runs.load(line["run"], "tiny")
    errors = dict(rows.loc[rows["status"] == "failed", ["kind", "error"]].itertuples(index=False))
    assert "ValueError: planned" in errors["raises"]
    assert "SIGKILL" in errors["dies"]
    assert "took more than 1.5 s" in errors["hangs"]
    assert 3 == (rows["status"] == "not applicable").sum()
    log = (runs.find(line["run"]) / "logs").glob("*.log")
    assert any("planned" in path.read_text() for path in log)
    assert not (runs.find(line["run"]) / "scratch").exists()
    html = (ROOT / line["html"]).read_text(encoding="utf-8")
    assert_offline(html)
    assert "3 trials failed" in html and "&lt;b&gt;failure" in html


def test_a_trial_that_the_machine_has_no_room_for_is_told_with_its_reason_and_is_no_failure(call, results):
    done = call("run", "tiny", "--set", "kind=good,large", "--profile", "smoke", "--repeats", "1", "--json")
    assert 0 == done.returncode, done.stderr
    line = json.loads(done.stdout)
    assert (4, 0) == (line["trials"], line["failed"])
    rows = runs.load(line["run"], "tiny")
    told = rows.loc[rows["kind"] == "large", ["status", "reason"]]
    assert {("not applicable", "1 GiB of memory is missing")} == set(told.itertuples(index=False, name=None))


def test_the_last_line_is_the_page_and_progress_was_told(call, results):
    done = call("run", "tiny", "--profile", "smoke", "--set", "size=1,3", "--set", "share=0.25")
    assert 0 == done.returncode, done.stderr
    assert 1 == len(done.stdout.splitlines())
    page = ROOT / done.stdout.strip()
    html = page.read_text(encoding="utf-8")
    assert_offline(html)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; é" in html
    assert "trial 4 of 4 · tiny size=" in done.stderr and "left" in done.stderr
    rows = runs.load(page.parent.name, "tiny")
    assert 4 == rows["pid"].nunique() and {1, 3} == set(rows["size"])
    assert [] == sweep.unequal_hashes(rows, ["size", "kind"])
    json.loads((page.parent / "manifest.json").read_text(), parse_constant=pytest.fail)
    again = call("report", page.parent.name)
    assert (0, done.stdout) == (again.returncode, again.stdout)


def test_repeats_that_leave_different_accounts_are_told(call, results):
    done = call("run", "tiny", "--set", "kind=unsteady", "--profile", "smoke")
    assert "left different accounts" in (ROOT / done.stdout.strip()).read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_an_interrupted_run_is_valid_and_has_a_page(call, results, number):
    command = [sys.executable, "-m", "experiments", "run", "tiny", "--profile", "full", "--repeats", "20"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    folder = results / "runs"
    deadline = time.monotonic() + 60
    while not list(folder.glob("*/logs/*-0002.log")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert (cli.INTERRUPTED, "") == (process.returncode, stdout), stderr
    (path,) = folder.iterdir()
    assert f"run --resume {path.name} goes on" in stderr
    facts = runs.manifest(path.name)
    rows = runs.load(path.name, "tiny")
    assert ("interrupted", 40) == (facts["state"], facts["planned"])
    assert 2 <= facts["trials"] == len(rows) < 40
    assert {"ok"} == set(rows["status"]) and not (path / "scratch").exists()
    done = call("report", path.name)
    assert 0 == done.returncode, done.stderr
    assert "This run is interrupted" in (ROOT / done.stdout.strip()).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tinny"], "did you mean tiny"),
        (["tiny", "--set", "siez=1"], "did you mean size"),
        (["tiny", "--set", "size=big"], "size is 'big'"),
        (["tiny", "--set", "share=nan"], "share is nan"),
        (["tiny", "--set", "size"], "FACTOR=LEVEL"),
        (["tiny", "--set", "share=1e400"], "share is inf"),
        (["tiny", "--set", "rows=007"], "rows is '007'"),
        (["tiny", "--set", "repeat=2"], "no experiment here has repeat"),
        (["tiny", "--repeats", "0"], "repeats is 0"),
        (["tiny", "--profile", "quik"], "did you mean quick"),
        (["--resume", "tiny-quick"], "there is no run 'tiny-quick'"),
        ([], "no experiment was named"),
    ],
    ids=str,
)
def test_a_wrong_call_ends_before_anything_starts(tiny, results, capsys, arguments, words):
    assert 2 == cli.main(["run", *arguments])
    assert words in capsys.readouterr().err
    assert not (results / "runs").exists()


def test_list_names_every_experiment_with_its_question(capsys):
    assert 0 == cli.main(["list"])
    shown = capsys.readouterr().out
    assert {"capacity", "durability", "hugepages", "limits", "prefetch", "recovery"} <= set(spec.names())
    for name in spec.names():
        assert name in shown and spec.load(name).question in shown


def test_help_is_quick_because_it_loads_nothing(call):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "experiments", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "usage" in done.stdout
    assert not {"numpy", "numba", "pandas", "matplotlib"} & {
        line.rpartition("|")[2].strip() for line in done.stderr.splitlines()
    }
    assert os.path.isdir(ROOT / "experiments")
