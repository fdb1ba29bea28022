"""The histogram, its quantiles, and the two loops."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import measure
from experiments.measure import Histogram
from experiments.trials import common


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=50))
def test_every_value_lies_in_its_bucket_and_is_told_within_one_percent(samples):
    values = np.array(samples, np.int64)
    low, width = measure.bucket_edges(measure.buckets_of(values))
    assert np.all((low <= values) & (values - low < width))
    middle = low + (width - 1) / 2
    assert np.all(np.abs(middle - values) <= np.maximum(values, 1) * 0.01)


def test_quantiles_are_within_one_percent_of_the_sorted_samples():
    samples = np.random.default_rng(1).lognormal(11, 2, 200_000).astype(np.int64)
    histogram = Histogram.of(samples)
    for q in measure.QUANTILES.values():
        exact = np.quantile(samples, q, method="inverted_cdf")
        assert histogram.quantile(q) == pytest.approx(exact, rel=0.01)
    assert int(samples.max()) == histogram.max
    assert int(samples.sum()) == histogram.sum


@pytest.mark.parametrize(
    ("n", "shown"), [(19, 0), (20, 1), (99, 1), (100, 2), (999, 2), (1000, 3), (10_000, 4), (100_000, 5)]
)
def test_a_quantile_is_shown_only_with_ten_samples_beyond_it(n, shown):
    found = Histogram.of(np.arange(n)).quantiles("")
    assert shown == sum(found[name] is not None for name in measure.QUANTILES)
    assert (n - 1, n) == (found["max"], found["count"])


def test_the_curve_ends_where_ten_samples_remain():
    _, beyond = Histogram.of(np.arange(256).repeat(4)).curve()
    assert 12 == round(beyond.min() * 1024)


def test_histograms_add_up_and_survive_their_sparse_form():
    samples = np.random.default_rng(2).integers(0, 10**9, 5000)
    whole, left, right = Histogram.of(samples), Histogram.of(samples[:2000]), Histogram.of(samples[2000:])
    left.merge(right)
    again = Histogram.from_sparse(*left.sparse(), left.max, left.sum)
    for found in (left, again):
        assert np.array_equal(whole.counts, found.counts)
        assert (whole.max, whole.sum, whole.n) == (found.max, found.sum, found.n)


def test_negative_values_count_as_zero():
    assert 0 == Histogram.of([-5] * 30).quantile(0.5)


def test_an_open_loop_counts_the_wait_that_a_closed_loop_leaves_out():
    calls = range(60)

    def stall(number):
        time.sleep(0.05 if number == 10 else 0.0)

    closed = measure.closed_loop(stall, calls)
    opened = measure.open_loop(stall, calls, calls_per_s=1000)
    late = 10_000_000
    assert np.sum(opened > late) >= np.sum(closed > late) + 20


def test_usage_counts_what_was_written(tmp_path):
    before = measure.Usage.now()
    (tmp_path / "x").write_bytes(bytes(1 << 20))
    used = measure.Usage.now().since(before)
    assert used["wall_s"] > 0 and used["bytes_written"] >= 0
    assert measure.rss_bytes() > 1 << 20


def test_throughput_begins_after_the_warm_up_and_no_call_is_left_out_elsewhere(monkeypatch):
    latencies = np.array([4_000_000] * 10 + [1_000_000, 1_010_000] * 25)
    latencies[40] = 9_000_000
    used = measure.Usage.now().since(measure.Usage.now())
    monkeypatch.setattr(measure, "run_calls", lambda call, batches, calls_per_s: (latencies, used))
    found = common.phase("work", None, range(60), 600)
    assert (10, 1) == (found.numbers["warmup_batches"], found.numbers["outliers"])
    assert found.numbers["rows_per_s"] == pytest.approx(500 / latencies[10:].sum() * 1e9)
    assert found.numbers["seconds"] == pytest.approx(latencies.sum() / 1e9)
    assert (60, 9_000_000) == (found.histograms["latency"].n, found.numbers["latency_ns_max"])
    whole = common.phase("fill", None, range(60), 600, steady=False)
    assert 0 == whole.numbers["warmup_batches"]
    assert whole.numbers["rows_per_s"] == pytest.approx(600 / latencies.sum() * 1e9)
