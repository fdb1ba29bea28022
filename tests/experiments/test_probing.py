"""The expected distribution of probe distances, against Knuth's means and a simulation."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.analysis import probing
from experiments.trials.capacity import gaps


@pytest.mark.parametrize("load", [0.1, 0.5, 0.7, 0.8])
def test_the_means_of_the_distributions_are_knuths(load):
    distances = np.arange(4096)
    hit, miss = probing.hit_distribution(load, 4096), probing.miss_distribution(load, 4096)
    assert 1 + hit @ distances == pytest.approx(probing.knuth_hit(load), rel=1e-3)
    assert 1 + miss @ distances == pytest.approx(probing.knuth_miss(load), rel=1e-3)
    assert hit.sum() == pytest.approx(1) and miss.sum() == pytest.approx(1)


def test_a_simulated_table_follows_the_distributions():
    positions, load = 1 << 15, 0.8
    random = np.random.default_rng(1)
    taken = np.zeros(positions, bool)
    distances = []
    for home in random.integers(0, positions, int(load * positions)):
        at = home
        while taken[at % positions]:
            at += 1
        taken[at % positions] = True
        distances.append(at - home)
    hit = np.bincount(np.minimum(distances, 255), minlength=256) / len(distances)
    miss = np.bincount(np.minimum(gaps(taken), 255), minlength=256) / positions
    assert probing.ks_distance(hit, probing.hit_distribution(load)) < 0.02
    assert probing.ks_distance(miss, probing.miss_distribution(load)) < 0.03
    assert probing.ks_distance(hit, probing.hit_distribution(0.5)) > 0.1
