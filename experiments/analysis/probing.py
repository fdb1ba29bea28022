"""Linear probing under random hashing: the expected distribution of probe distances.

At load a the runs of taken positions, each with the empty one that ends it, are Borel distributed, and a
random position falls into one by its length (Knuth, TAOCP 3, 6.4; Viola, Exact distribution of individual
displacements in linear probing hashing, 2005). So a miss is d positions from the next empty one with
probability (1-a) P(T > d). Entries never move here, so a hit is as far from home as it was when it came in:
the average of misses over all loads from 0 to a. The means are Knuth's formulas.
"""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln

BUCKETS = 256
"""Distances 0 to 254, and the rest in the last."""


def knuth_hit(load: float) -> float:
    """Return the mean number of probes of a hit."""
    return (1 + 1 / (1 - load)) / 2


def knuth_miss(load: float) -> float:
    """Return the mean number of probes of a miss."""
    return (1 + 1 / (1 - load) ** 2) / 2


def miss_distribution(load: float, buckets: int = BUCKETS) -> np.ndarray:
    """Return P(distance of a miss = d) for d = 0 .. buckets-2; the last is all beyond.

    Examples
    --------
    >>> round(float(miss_distribution(0.5)[0]), 3)
    0.5
    """
    if load <= 0:
        return np.eye(1, buckets)[0]
    lengths = np.arange(1, buckets)
    borel = np.exp(-load * lengths + (lengths - 1) * np.log(load * lengths) - gammaln(lengths + 1))
    longer = 1 - np.concatenate([[0.0], np.cumsum(borel)[:-1]])
    inside = (1 - load) * longer
    return np.append(inside, max(0.0, 1 - inside.sum()))


def hit_distribution(load: float, buckets: int = BUCKETS) -> np.ndarray:
    """Return P(distance of a hit = d), as `miss_distribution`: its average over the loads on the way."""
    nodes, weights = np.polynomial.legendre.leggauss(48)
    loads = (nodes + 1) / 2 * load
    return np.sum([w / 2 * miss_distribution(x, buckets) for x, w in zip(loads, weights, strict=True)], axis=0)


def ks_distance(measured: np.ndarray, expected: np.ndarray) -> float:
    """Return the greatest distance between two distribution functions (Kolmogorov, Smirnov)."""
    return float(np.abs(np.cumsum(measured) - np.cumsum(expected)).max())
