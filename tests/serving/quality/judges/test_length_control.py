"""Length control takes a judge's taste for length out, and nothing else."""

import numpy as np
import pytest
import statsmodels.api as sm

from serving.quality.judges.length_control import JudgedPair, logistic, preference_rates

# How a judge's log-odds depend on the logarithm of the ratio of lengths.
TASTES = {
    "saturating": lambda ratio: 1.2 * np.tanh(ratio),
    "linear": lambda ratio: 0.8 * ratio,
    "steep": lambda ratio: 1.5 * np.tanh(3 * ratio),
    "none": lambda ratio: 0 * ratio,
}


def made_pairs(taste, merit, rng, count=40_000):
    """Return verdicts on answers a fifth as long as L0's, and on equally good ones."""
    rows = []
    for equal, mean, own in ((False, -1.5, merit), (True, -0.7, 0.0)):
        ratio = rng.normal(mean, 0.7, count)
        liking = 1 / (1 + np.exp(-(own + TASTES[taste](ratio))))
        # Two orders: a tie if they differ.
        credit = (rng.random((2, count)) < liking).mean(axis=0)
        rows += [JudgedPair(c, r, equal) for c, r in zip(credit, ratio, strict=True)]
    return rows


@pytest.mark.parametrize("taste", list(TASTES))
def test_at_equal_merit_the_controlled_rate_is_within_two_points_of_a_half(taste):
    rates = preference_rates(made_pairs(taste, 0.0, np.random.default_rng(0)))
    assert rates.controlled[0] == pytest.approx(0.5, abs=0.02)
    if taste != "none":
        # The raw rate is off by 20 points or more.
        assert rates.raw[0] < 0.3


@pytest.mark.parametrize("merit", [-0.6, 0.4])
def test_a_true_difference_stays(merit):
    rates = preference_rates(made_pairs("saturating", merit, np.random.default_rng(1)))
    assert rates.controlled[0] == pytest.approx(1 / (1 + np.exp(-merit)), abs=0.02)
    assert rates.controlled[1] < rates.controlled[0] < rates.controlled[2]


def test_without_pairs_of_equal_quality_there_is_no_controlled_rate():
    pairs = [p for p in made_pairs("linear", 0.0, np.random.default_rng(2), 500) if not p.equal]
    assert preference_rates(pairs).controlled is None
    assert preference_rates([JudgedPair(0.5, 0.0, True)]) is None
    assert preference_rates([]) is None


def test_the_regression_is_that_of_statsmodels():
    rng = np.random.default_rng(3)
    design = np.column_stack([np.ones(500), rng.normal(size=(500, 2))])
    credit = rng.choice([0.0, 0.5, 1.0], 500)
    expected = sm.GLM(credit, design, family=sm.families.Binomial()).fit().params
    # The prior is worth a fraction of one observation.
    assert logistic(design, credit) == pytest.approx(expected, abs=5e-3)


def test_verdicts_that_all_agree_have_finite_coefficients():
    design = np.column_stack([np.ones(50), np.linspace(-1, 1, 50)])
    assert np.isfinite(logistic(design, np.ones(50))).all()
