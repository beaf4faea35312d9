import numpy as np
import pytest

from agents.smoothing import smoothed
from envs.features import Featurizer
from tests import made

KINDS = {"mixed": "What is item {n}?", "other": "Explain why {n} is so. Show all steps."}


@pytest.fixture
def profile(tmp_path):
    rng = np.random.default_rng(0)
    chance = {"none": 1.0, "brief": 0.7, "very_brief": 0.2}
    requests = made.chats(120, KINDS)
    return made.profile(tmp_path, requests, lambda r, d: float(rng.random() < chance[d]))


def test_estimates_come_nearer_to_the_expected_quality(profile):
    found = smoothed(profile, Featurizer(profile.tasks), "correct")
    truth = np.array([1.0, 0.7, 0.2])
    before = np.abs(profile.correct - truth).mean()
    after = np.abs(found.correct - truth).mean()
    assert after < 0.4 * before
    assert (found.correct >= 0).all()
    assert (found.correct <= 1).all()


def test_a_prompts_own_verdict_does_not_reach_its_estimate(profile):
    featurizer = Featurizer(profile.tasks)
    before = smoothed(profile, featurizer, "correct").correct[7]
    profile.correct[7] = 1 - profile.correct[7]
    assert np.array_equal(smoothed(profile, featurizer, "correct").correct[7], before)


def test_unknown_quality_stays_unknown(profile):
    profile.correct[profile.rows_of("other")] = np.nan
    found = smoothed(profile, Featurizer(profile.tasks), "correct")
    assert np.isnan(found.correct[found.rows_of("other")]).all()
    assert not np.isnan(found.correct[found.rows_of("mixed")]).any()
