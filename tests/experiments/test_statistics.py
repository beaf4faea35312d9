import numpy as np
import pytest

from experiments.statistics import ratio_of_means


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth, hits, trials = 0.5, 0, 200
    for trial in range(trials):
        base = rng.gamma(2.0, size=120)
        interval = ratio_of_means(base * rng.choice([0.2, 0.8], 120), base, seed=trial)
        hits += interval.low <= truth <= interval.high
    assert 0.89 <= hits / trials <= 0.99


def test_a_constant_ratio_has_no_spread():
    base = np.array([1.0, 2.0, 4.0])
    found = ratio_of_means(0.25 * base, base)
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))


def test_nothing_to_compare_with_is_nan():
    assert np.isnan(ratio_of_means(np.ones(3), np.zeros(3)).value)
