"""Medians with intervals, from few repeats, by scipy's percentile bootstrap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2_000


def median_interval(
    values: Sequence[float] | np.ndarray, *, confidence: float = 0.95, seed: int = 1
) -> tuple[float, float, float]:
    """Return (median, low, high): the median and the interval that its bootstrap copies fill.

    With fewer than five values the interval is the range of the values, which claims less.

    Examples
    --------
    >>> median_interval([3.0, 1.0, 2.0])
    (2.0, 1.0, 3.0)
    """
    sample = np.asarray(values, float)
    if sample.size == 0:
        raise ValueError("no values")
    if sample.size < 5:
        return float(np.median(sample)), float(sample.min()), float(sample.max())
    from scipy.stats import bootstrap  # half a second to import, and few need it

    found = bootstrap(
        (sample,), np.median, n_resamples=RESAMPLES, confidence_level=confidence, method="percentile", rng=seed
    ).confidence_interval
    return float(np.median(sample)), float(found.low), float(found.high)


def ratio_interval(
    numerator: Sequence[float] | np.ndarray, denominator: Sequence[float] | np.ndarray, *, paired: bool = False
) -> tuple[float, float, float]:
    """Return (ratio, low, high) of two medians; `paired` values, measured in turn, are divided one by one."""
    top, bottom = np.asarray(numerator, float), np.asarray(denominator, float)
    if paired:
        return median_interval(top / bottom)
    (a, a_low, a_high), (b, b_low, b_high) = median_interval(top), median_interval(bottom)
    return a / b, a_low / b_high, a_high / b_low
