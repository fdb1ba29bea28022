"""Keys, records and choices are functions of the seed."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.workload import ZIPF_EXPONENT, Workload


def test_a_seed_gives_the_same_keys_records_and_choices_again():
    for keys in ("uniform", "zipf"):
        one, two, other = Workload(1000, 7, keys), Workload(1000, 7, keys), Workload(1000, 8, keys)
        assert np.array_equal(one.choose(500, 1), two.choose(500, 1))
        assert not np.array_equal(one.choose(500, 1), one.choose(500, 2))
        assert not np.array_equal(one.choose(500, 1), other.choose(500, 1))
    numbers = np.arange(1000)
    assert np.array_equal(one.records(numbers, 3), two.records(numbers, 3))
    assert one.hash_key == two.hash_key != other.hash_key and 32 == len(one.hash_key)


def test_keys_are_all_different_and_misses_are_none_of_them():
    work = Workload(50_000)
    present = {key.tobytes() for key in work.pubkeys(np.arange(50_000))}
    assert 50_000 == len(present)
    assert not present & {key.tobytes() for batch in work.misses(10, 1000) for key in batch}
    assert all(key.tobytes() in present for batch in work.hits(5, 100) for key in batch)


def test_a_new_version_changes_the_fields_and_not_the_key():
    work = Workload(100)
    old, new = (work.records(np.arange(100), version) for version in (0, 1))
    assert np.array_equal(old["pubkey"], new["pubkey"])
    assert not np.any(old["balance"] == new["balance"])
    assert int(old["balance"].max()) < 1 << 40


def test_zipf_choices_follow_the_law():
    work = Workload(10_000, keys="zipf")
    shares = np.sort(np.bincount(work.choose(400_000, 1), minlength=10_000))[::-1] / 400_000
    weights = np.arange(1, 10_001) ** -ZIPF_EXPONENT
    expected = weights / weights.sum()
    assert shares[:5] == pytest.approx(expected[:5], rel=0.05)
    assert shares[:1000].sum() == pytest.approx(expected[:1000].sum(), rel=0.02)


def test_batches_have_the_asked_size():
    work = Workload(1000)
    assert [400, 400, 200] == [batch.size for batch in work.fill(400)]
    assert [(64, 32)] * 3 == [batch.shape for batch in work.hits(3, 64)]
    assert [64] * 3 == [batch.size for batch in work.updates(3, 64)]


def test_an_unknown_distribution_is_refused():
    with pytest.raises(ValueError, match="normal"):
        Workload(10, keys="normal")
