import numpy as np
import pytest

from experiments.statistics import BootstrapFigure, average_repeats, ratio_of_means


def test_a_95_percent_interval_covers_the_true_ratio_at_about_that_rate():
    rng = np.random.default_rng(0)
    truth, hits, trials = 0.5, 0, 200
    for trial in range(trials):
        base = rng.gamma(2.0, size=120)
        interval = ratio_of_means(base * rng.choice([0.2, 0.8], 120), base, seed=trial)
        hits += interval.low <= truth <= interval.high
    assert 0.89 <= hits / trials <= 0.99


def test_the_interval_of_a_constant_ratio_has_no_width():
    base = np.array([1.0, 2.0, 4.0])
    interval = ratio_of_means(0.25 * base, base)
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.25, 0.25, 0.25))


def test_a_ratio_to_a_zero_baseline_is_nan():
    assert np.isnan(ratio_of_means(np.ones(3), np.zeros(3)).value)


def test_the_interval_of_averaged_repeats_includes_the_spread_between_them():
    rng = np.random.default_rng(0)
    prompts = rng.normal(size=500)
    equal_repeats = average_repeats(
        [BootstrapFigure(0.0, prompts), BootstrapFigure(0.0, prompts)]
    ).interval
    differing_repeats = average_repeats(
        [BootstrapFigure(-5.0, prompts - 5), BootstrapFigure(5.0, prompts + 5)]
    ).interval
    assert equal_repeats.value == differing_repeats.value == 0
    assert (equal_repeats.low, equal_repeats.high) == pytest.approx(
        tuple(np.percentile(prompts, [2.5, 97.5]))
    )
    assert differing_repeats.low < equal_repeats.low - 3
    assert differing_repeats.high > equal_repeats.high + 3
