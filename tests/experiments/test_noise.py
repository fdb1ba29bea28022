"""A disturbed machine is told from a quiet one, and every run says which of them it was measured on."""

from __future__ import annotations

import json
import multiprocessing
import os

import pytest

from experiments import __main__ as cli
from experiments import noise, runs


def a_check(*, cache=(1.0, 1.02), memory=(7.0, 7.7), sync=(0.5, 0.9), others=0.01, steal=0, total=1000):
    times = {"cache": cache, "memory": memory, "sync": sync}
    kinds = {name: {"p50_ms": p50, "p95_ms": p95, "samples": 100} for name, (p50, p95) in times.items()}
    return {**kinds, "others_share": others, "load_1min": 0.1, "ticks": {"total": total, "busy": 100, "steal": steal}}


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ({"cache": (1.0, 1.2)}, "work in cache took 1.20 times the median"),
        ({"memory": (7.0, 9.0)}, "loads from memory took 1.29 times the median"),
        ({"sync": (0.5, 1.6)}, "synced writes took 3.20 times the median"),
        ({"cache": (1.1, 1.11)}, "work in cache took 1.10 times as long after the run"),
        ({"cache": (0.9, 0.91)}, "work in cache took 0.90 times as long after the run"),
        ({"memory": (8.0, 8.1)}, "loads from memory took 1.14 times as long"),
        ({"sync": (0.9, 1.0)}, "synced writes took 1.80 times as long"),
        ({"others": 0.2}, "other processes used 20% of the CPUs"),
        ({"steal": 40}, "the host withheld 4.0% of the CPU time"),
    ],
    ids=str,
)
def test_what_disturbs_is_named_with_its_limit(after, words):
    found = noise.judge([a_check(), a_check(**{"total": 2000, **after})])
    assert ("disturbed", True) == (found["verdict"], found["disturbed"])
    assert words in found["words"] and "limit" in found["words"] and 1 == len(found["reasons"])


def test_a_quiet_machine_is_called_quiet_and_a_run_that_ended_early_says_so():
    quiet = noise.judge([a_check(), a_check(total=2000)])
    assert ("quiet", []) == (quiet["verdict"], quiet["reasons"])
    assert "before the run only" in noise.judge([a_check()], ended=False)["words"]
    json.loads(json.dumps(quiet), parse_constant=pytest.fail)


def burn():
    while True:
        pass


def test_processes_that_take_the_cpus_are_seen(tmp_path):
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=burn, daemon=True) for _ in range(os.cpu_count() or 1)]
    for process in others:
        process.start()
    try:
        found = noise.check(tmp_path, 0.3)
    finally:
        for process in others:
            process.kill()
            process.join()
    assert "disturbed" == noise.judge([found])["verdict"]
    assert found["others_share"] > noise.OTHERS_MAX and not list(tmp_path.iterdir())
    assert min(found[name]["samples"] for name in noise.SPREAD_MAX) >= 10


def test_a_run_is_checked_before_and_after_and_says_so_when_it_was_disturbed(tiny, results, capsys, monkeypatch):
    checks = iter([a_check(), a_check(cache=(2.0, 2.1)), a_check(), a_check()])
    monkeypatch.setattr(noise, "check", lambda folder, seconds: next(checks))
    command = ["run", "tiny", "--no-notebooks", "--profile", "smoke", "--repeats", "1", "--json"]
    assert 0 == cli.main(command)
    told = capsys.readouterr()
    assert "disturbed" == json.loads(told.out)["noise"]
    facts = runs.manifest(json.loads(told.out)["run"])["noise"]
    assert (2, facts["words"]) == (len(facts["checks"]), told.err.splitlines()[-1])
    assert 0 == cli.main(command)
    told = capsys.readouterr()
    assert "quiet" == json.loads(told.out)["noise"] and "The machine was" not in told.err
