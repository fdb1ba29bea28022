"""The working tree against a commit: the interval, the verdict, and a slow-down that was planted."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from experiments import __main__ as cli
from experiments import bench, runs

TINY = {
    **bench.SIZES, "accounts": 5_000, "batch_rows": 512, "insert_rows_max": 50_000, "pairs_min": 12, "pairs_max": 12,
    "rounds": 3, "calls_divisor": 3,
}  # fmt: skip


def test_the_interval_is_what_the_signed_rank_test_does_not_reject():
    for seed in range(5):
        sample = np.random.default_rng(seed).normal(0.1, 1, 12)
        _, low, high = bench.estimate(list(sample), 0.95)
        for inside, outside in ((low + 1e-6, low - 1e-6), (high - 1e-6, high + 1e-6)):
            assert (
                wilcoxon(sample - inside, method="exact").pvalue
                > 0.05
                >= wilcoxon(sample - outside, method="exact").pvalue
            )


def test_the_interval_holds_the_truth_as_often_as_it_says():
    random = np.random.default_rng(1)
    found = [bench.estimate(list(random.normal(0, 1, 10)), 0.95) for _ in range(1_000)]
    assert 0.93 < np.mean([low < 0 < high for _, low, high in found]) < 0.98


@pytest.mark.parametrize(
    ("slower", "scatter", "verdict"),
    [
        (0.0, 0.01, "none"),
        (0.1, 0.01, "regression"),
        (-0.1, 0.01, "none"),
        (0.1, 0.2, "cannot tell"),
        (0.05, 0.01, "cannot tell"),
    ],
)
def test_the_verdict_follows_the_interval(slower, scatter, verdict):
    quantiles = np.linspace(-1, 1, 12) * scatter
    ratios = {"get": list(quantiles / 2), "update_batch": list(math.log1p(slower) + quantiles)}
    assert verdict == bench.judge(ratios, "a", "b", 0.05).verdict


def test_pairs_are_added_until_the_intervals_tell_or_there_are_enough():
    def pairs(scatter):
        random = np.random.default_rng(1)
        while True:
            yield {name: random.normal(0, scatter) for name in bench.CALLS}

    sizes = {**bench.SIZES, "pairs_max": 40}
    quiet, noisy, hopeless = (bench._decide(pairs(scatter), "a", "b", 0.05, sizes) for scatter in (0.01, 0.06, 1.0))
    counts = [int(found.notes[0].split()[0]) for found in (quiet, noisy, hopeless)]
    assert 12 == counts[0] < counts[1] < counts[2] == 40
    assert ["none", "none", "cannot tell"] == [quiet.verdict, noisy.verdict, hopeless.verdict]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--against", "nothing"], "no commit nothing"),
        (["--tries", "0"], "tries is 0"),
        (["--plant", "-1"], "plant is -1"),
        (["--threshold", "0"], "threshold is 0"),
    ],
    ids=str,
)
def test_a_wrong_call_is_refused(capsys, arguments, words):
    assert 2 == cli.main(["bench", *arguments])
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_a_slow_down_that_was_planted_is_found_in_builds_of_the_commit_and_of_the_tree(capsys):
    found = bench.run(plant_percent=200, sizes=TINY)
    assert 1 == bench.print_result(found, as_json=True)
    told = json.loads(capsys.readouterr().out)
    rows = {row["operation"]: row for row in told["rows"]}
    assert list(bench.CALLS) == list(rows)
    assert ("regression", "regression") == (told["verdict"], rows["update_batch"]["verdict"])
    assert 2.5 < rows["update_batch"]["ratio"] < 3.5 and "regression" != rows["get_batch"]["verdict"]
    assert not list((runs.ROOT / ".cache").glob("bench-*"))
