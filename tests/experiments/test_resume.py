"""A run that ended too early goes on with what it lacks, and two runs do not meet."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import __main__ as cli
from experiments import runs, sweep
from experiments.errors import ResumeError, RunBusyError

COMMAND = [sys.executable, "-m", "experiments", "run", "tiny", "--no-notebooks"]


def start(*arguments):
    return subprocess.Popen(
        [*COMMAND, *arguments], cwd=runs.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(folder, pattern):
    """Return the first path that matches, as soon as there is one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in folder.glob(pattern):
            return path
        time.sleep(0.02)
    raise AssertionError(f"no {pattern}")


def tries(path):
    """Return how often each trial was begun, by its number."""
    return {int(log.stem[-4:]): log.read_text().count("trial ") for log in (path / "logs").glob("*.log")}


def last_line(capsys, *arguments):
    """Run a command here and return its exit status, its line of JSON, and what it told."""
    capsys.readouterr()
    status = cli.main(["run", *arguments, "--no-notebooks", "--json"])
    told = capsys.readouterr()
    return status, json.loads(told.out), told.err


def test_a_killed_run_can_be_read_and_goes_on_without_measuring_anything_twice(tiny, results, capsys):
    process = start("--profile", "full", "--repeats", "4")
    path = wait_for(results, "runs/*/logs/*-0003.log").parent.parent
    with pytest.raises(RunBusyError, match="another process is writing"):
        runs.Run.reopen(path.name)
    process.kill()
    process.communicate()
    rows = runs.load(path.name, "tiny")
    killed = len(rows)
    assert 3 <= killed < 8 and "running" == runs.manifest(path.name)["state"]
    assert 0 == cli.main(["report", path.name, "--no-notebooks"])
    status, line, _ = last_line(capsys, "--resume", path.name)
    assert (0, path.name, 8, 0) == (status, *(line[name] for name in ("run", "trials", "failed")))
    facts, after = runs.manifest(path.name), runs.load(path.name, "tiny")
    assert ("complete", [killed]) == (facts["state"], [item["after_trials"] for item in facts["resumed"]])
    assert list(range(8)) == list(after["trial"])
    assert list(rows["pid"]) == list(after["pid"][:killed])
    assert all(begun == 1 or trial == killed for trial, begun in tries(path).items())
    histograms = runs.histograms(after)
    assert {(trial, "work") for trial in range(8)} == set(histograms) and {200} == {h.n for h in histograms.values()}
    assert not [item for item in path.iterdir() if item.name in ("rows.jsonl", "scratch")]


@pytest.mark.slow
def test_the_trial_of_a_killed_run_ends_with_it(tiny, results):
    tiny.write_text(tiny.read_text().replace("timeout_s = 1.5", "timeout_s = 100"))
    process = start("--profile", "full", "--set", "kind=hangs")
    log = wait_for(results, "runs/*/logs/*-0000.log")
    deadline = time.monotonic() + 30
    while "trial hangs" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    pid = int(log.read_text().split()[-1])
    process.kill()
    process.communicate()
    while lives(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not lives(pid)


def lives(pid):
    """Return whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_failed_trial_is_measured_again_and_no_other(tiny, results, capsys):
    status, line, told = last_line(capsys, "tiny", "--profile", "smoke", "--set", "kind=good,flaky")
    assert (1, 8, 4) == (status, line["trials"], line["failed"])
    path = runs.find(line["run"])
    rows = runs.load(path.name, "tiny")
    failed = rows[rows["status"] == "failed"]
    assert 4 == len(failed) and all((path / log).is_file() for log in failed["log"])
    assert f"log: {path}/logs/tiny-" in told
    status, line, _ = last_line(capsys, "--resume", path.name)
    assert (0, 8, 0) == (status, line["trials"], line["failed"])
    assert {1: 4, 2: 4} == collections.Counter(tries(path).values())
    rows = runs.load(path.name, "tiny")
    assert sorted(rows["trial"]) == list(range(8)) and {"ok"} == set(rows["status"]) and "log" not in rows


def test_going_on_with_other_code_another_file_or_another_machine_is_refused(tiny, results, monkeypatch, capsys):
    assert 0 == cli.main(["run", "tiny", "--no-notebooks", "--profile", "smoke", "--repeats", "1"])
    (path,) = (results / "runs").iterdir()
    facts = runs.manifest(path.name)
    assert [1] == [plan.repeats for plan in sweep.plans_of(facts)]
    with monkeypatch.context() as changed:
        changed.setattr(sweep, "code_digest", lambda: "other")
        with pytest.raises(ResumeError, match="the code was"):
            sweep.plans_of(facts)
    with pytest.raises(ResumeError, match="the CPU was a 6502 and is"):
        sweep.plans_of({**facts, "machine": {**facts["machine"], "cpu": {"model": "a 6502", "usable": 1}}})
    tiny.write_text(tiny.read_text() + "\n")
    capsys.readouterr()
    assert 1 == cli.main(["run", "--resume", path.name])
    assert "the file of experiment tiny was" in capsys.readouterr().err
    assert 1 == cli.main(["run", "--resume", path.name]), "the refusal let go of the run"
    assert 2 == cli.main(["run", "--resume", path.name, "--repeats", "3"])
    assert 2 == cli.main(["run", "--resume", path.name[:-1]])
    assert path.name in capsys.readouterr().err


def test_one_process_writes_a_run(results):
    run = runs.Run.create(["tiny"], "smoke", {})
    with pytest.raises(RunBusyError, match=run.id):
        runs.Run.reopen(run.id)
    run.close()
    runs.Run.reopen(run.id).close()


def test_two_runs_begun_at_once_have_folders_and_rows_of_their_own(tiny, results):
    work = "from experiments import progress, spec, sweep; "
    work += "print(sweep.run([sweep.plan(spec.load('tiny'))], progress.for_stream()).id)"
    command = [sys.executable, "-c", work]
    pair = [subprocess.Popen(command, cwd=runs.ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    ids = [process.communicate(timeout=60)[0].strip() for process in pair]
    assert [0, 0] == [process.returncode for process in pair] and ids[0] != ids[1]
    found = [runs.load(run_id, "tiny") for run_id in ids]
    for rows in found:
        assert list(range(4)) == list(rows["trial"]) and 4 == rows["pid"].nunique()
    assert not set(found[0]["pid"]) & set(found[1]["pid"])
    assert ids[0][: len("tiny-smoke-123456-")] == ids[1][: len("tiny-smoke-123456-")], "the same plan"


def test_a_dry_run_tells_the_plan_and_its_time_and_runs_nothing(tiny, results, capsys):
    def dry(*arguments):
        capsys.readouterr()
        assert 0 == cli.main(["run", *arguments, "--dry-run", "--json"])
        (row,) = json.loads(capsys.readouterr().out)
        return row

    row = dry("tiny", "--profile", "standard")
    assert (5, 3, 2, 10, 10) == tuple(row[n] for n in ("cells", "cells left out", "repeats", "trials", "to measure"))
    assert row["seconds"] is None and not (results / "runs").exists()
    assert 0 == cli.main(["run", "tiny", "--no-notebooks", "--profile", "smoke", "--repeats", "1"])
    (path,) = (results / "runs").iterdir()
    once = runs.load(path.name, "tiny")["trial_s"]
    row = dry("tiny", "--profile", "smoke", "--repeats", "3")
    assert (path.name, 6) == (row["judged by"], row["to measure"])
    assert row["seconds"] == pytest.approx(3 * once.sum())
    assert 0 == dry("--resume", path.name)["to measure"]
    assert 0 == cli.main(["run", "tiny", "--dry-run"])
    assert "6 trials, interleaved" in capsys.readouterr().out


def test_a_line_that_was_cut_off_does_not_count(results):
    run = runs.Run.create(["tiny"], "smoke", {})
    row = {"experiment": "tiny", "trial": 0, "status": "ok", "operation": "work", "x": 2**64 - 1, "y": float("nan")}
    run.add([row])
    with open(run.path / "rows.jsonl", "ab") as file:
        file.write(b'{"rows": [{"experiment": "tiny", "tri')
    run.close()
    again = runs.Run.reopen(run.id)
    assert not again.lacks(0) and again.lacks(1)
    again.go_on()
    again.add([{**row, "trial": 1}])
    again.finish("complete")
    assert [2**64 - 1] * 2 == list(runs.load(run.id, "tiny")["x"])
