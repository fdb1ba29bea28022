"""Intervals hold what they say they hold, an effect is one only when it shows, and a warm-up is found where it ends."""

from __future__ import annotations

import importlib
import math
import re

import numpy as np
import pandas as pd
import pytest

from experiments import spec, stats
from experiments.analysis import common


def rng():
    return np.random.default_rng(1)


@pytest.mark.parametrize("n", [2, 5, 9, 10])
def test_nineteen_of_twenty_intervals_hold_the_median(n):
    samples = rng().lognormal(0, 0.2, (150, n))
    found = [stats.median_interval(sample) for sample in samples]
    assert 0.88 <= np.mean([low <= 1 <= high for _, low, high in found]) <= 0.99
    assert all(low <= middle <= high for middle, low, high in found)


def test_equal_values_and_one_value_are_their_own_interval_and_more_values_narrow_it():
    assert (2.0, 2.0, 2.0) == stats.median_interval([2.0]) == stats.median_interval([2.0] * 12)
    widths = [np.ptp(stats.median_interval(rng().normal(10, 1, n))[1:]) for n in (3, 9, 40)]
    assert sorted(widths, reverse=True) == widths
    low = stats.median_interval([-1.0, 1.0, 0.5])[1]
    assert low < -1.0, "values below 0 have no logarithms"
    assert all(math.isfinite(end) for end in stats.median_interval([1e-300, 1e300]))
    with pytest.raises(ValueError, match="no values"):
        stats.median_interval([])


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("n", [3, 12])
def test_no_effect_is_seen_where_there_is_none_and_one_where_there_is(n, paired):
    noise = rng()
    pairs = [noise.lognormal(0, 0.05, (2, n)) for _ in range(60)]
    words = [stats.effect(top, bottom, paired=paired).word for top, bottom in pairs]
    assert words.count("no effect shown") >= 53
    words = [stats.effect(1.4 * top, bottom, paired=paired).word for top, bottom in pairs]
    assert words.count("more") >= (50 if n == 3 else 60) and "less" not in words


def test_pairs_tell_what_the_drift_of_a_machine_hides():
    drift = np.array([1.0, 1.6, 0.7, 1.3, 0.9])
    slow, fast = drift * [1.0, 1.01, 0.99, 1.0, 1.01], drift * [1.1, 1.11, 1.1, 1.09, 1.12]
    assert "more" == stats.effect(fast, slow).word
    assert "no effect shown" == stats.effect(fast, slow, paired=False).word
    assert (0.5, 0.5, 0.5) == pytest.approx(stats.ratio_interval([1.0, 1.0], [2.0, 2.0]))
    assert (2.0, 2.0, 2.0) == pytest.approx(stats.ratio_interval([2.0, 8.0], [1.0, 4.0], paired=True))


def test_what_was_measured_once_is_no_effect():
    once = stats.effect([3.0], [1.0])
    assert (3.0, "no effect shown") == (once.ratio, once.word) and math.isnan(once.lo)
    assert "less" == stats.Effect(0.5, 0.4, 0.6).word


def test_the_end_of_a_warm_up_is_found():
    times = rng().lognormal(0, 0.05, 200)
    times[:30] *= np.linspace(3, 1.3, 30)
    assert 25 <= stats.warmup_length(times) <= 35
    assert 0 == stats.warmup_length(times[40:])
    assert 0 == stats.warmup_length(times[::-1]), "slow at the end is no warm-up"
    assert 0 == stats.warmup_length(times[:19]), "too few to tell"


def test_a_stall_is_no_warm_up_and_counts_as_an_outlier():
    times = rng().lognormal(0, 0.05, 200)
    before = stats.outliers(times)
    times[10] = 80.0
    assert 0 == stats.warmup_length(times)
    assert before + 1 == stats.outliers(times)
    assert 0 == stats.outliers([]) == stats.outliers([1.0, 1.0, 1.0])


def rows_of(speeds, **columns):
    """Return rows of cells "a" and "b" in some repeats."""
    frame = [
        {"status": "ok", "repeat": repeat, "cell": cell, "level": "ab"[cell], "operation": "work", "rows_per_s": speed}
        for repeat, pair in enumerate(speeds)
        for cell, speed in enumerate(pair)
        if speed is not None
    ]
    return pd.DataFrame(frame)


@common.repeated
def made(rows):
    a, b = (common.median(rows, "rows_per_s", level=level) for level in "ab")
    return common.numbers({"speed": a, "gain": common.ratio(b, a)})


def test_figures_get_their_intervals_from_whole_repeats_and_ratios_from_pairs():
    found = made(rows_of([(1.0, 2.0), (10.0, 20.2), (100.0, 199.0), (7.0, None)]))
    assert 1.95 < found["gain_lo"] <= found["gain"] <= found["gain_hi"] and found["speed_lo"] < 1
    assert {"speed", "gain"} == set(made(rows_of([(1.0, 2.0), (7.0, None)]))), "one whole repeat has no interval"
    said = common.Said(found)
    assert "no effect shown" not in "{gain:effect}".format_map(said)
    noisy = common.Said(made(rows_of([(1.0, 1.1), (1.0, 0.95), (1.0, 1.02)])))
    assert "{gain:effect}".format_map(noisy).endswith("no effect shown)")
    assert "(measured once, no effect shown)" in "{gain:effect}".format_map(common.Said({"gain": 5.0}))


@pytest.mark.parametrize("name", ["capacity", "hugepages", "prefetch", "durability"])
def test_an_answer_gives_no_ratio_of_two_levels_without_its_interval(name):
    answer = importlib.import_module(f"experiments.analysis.{name}").answer
    ratios = [key for key in spec.load(name).figures if re.search("_over_(?!expected)|_gain|_ratio", key)]
    told = answer({key + end: value for key in ratios for end, value in (("", 1.25), ("_lo", 0.75), ("_hi", 1.5))})
    assert ratios and "1.25" in told
    assert told.count("1.25") == told.count("1.25 times (0.75 to 1.5, no effect shown)")
