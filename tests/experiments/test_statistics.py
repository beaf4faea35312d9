import numpy as np
import pytest

from experiments.statistics import BootstrapFigure, average_repeats, ratio_of_means


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


def test_the_mean_of_repetitions_holds_their_own_spread_too():
    rng = np.random.default_rng(0)
    prompts = rng.normal(size=500)
    alike = average_repeats([BootstrapFigure(0.0, prompts), BootstrapFigure(0.0, prompts)]).interval
    apart = average_repeats(
        [BootstrapFigure(-5.0, prompts - 5), BootstrapFigure(5.0, prompts + 5)]
    ).interval
    assert alike.value == apart.value == 0
    assert (alike.low, alike.high) == pytest.approx(tuple(np.percentile(prompts, [2.5, 97.5])))
    assert apart.low < alike.low - 3
    assert apart.high > alike.high + 3
