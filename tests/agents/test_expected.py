import numpy as np
import pytest

from agents.expected import belief, expected_quality


def world(count=600, seed=0):
    """Half the prompts lose everything when brief, by one visible feature; verdicts are tosses."""
    rng = np.random.default_rng(seed)
    hard = rng.random(count) < 0.5
    parts = np.column_stack([hard, rng.normal(size=count)]).astype(np.float32)
    chance = np.column_stack([np.full(count, 0.8), np.where(hard, 0.1, 0.8)])
    return parts, (rng.random((count, 2)) < chance).astype(float), chance


def test_it_is_nearer_to_the_truth_than_the_verdicts_are():
    parts, scores, chance = world()
    folds = np.arange(len(parts)) % 5
    found = expected_quality(parts, scores, np.full(len(parts), "t"), folds, seed=0)
    assert ((found - chance) ** 2).mean() < 0.05 * ((scores - chance) ** 2).mean()


def test_what_the_features_do_not_tell_becomes_the_tasks_mean_difference():
    rng = np.random.default_rng(1)
    parts = rng.normal(size=(600, 3)).astype(np.float32)
    scores = (rng.random((600, 2)) < [0.8, 0.5]).astype(float)
    folds = np.arange(600) % 5
    found = expected_quality(parts, scores, np.full(600, "t"), folds, seed=0)
    difference = found[:, 1] - found[:, 0]
    assert difference.mean() == pytest.approx((scores[:, 1] - scores[:, 0]).mean())
    assert difference.std() < 0.05


def test_a_prompts_own_verdict_moves_it_only_through_its_tasks_mean():
    parts, scores, _ = world()
    folds = np.arange(len(parts)) % 5
    tasks = np.full(len(parts), "t")
    changed = scores.copy()
    changed[7, 1] = 1 - changed[7, 1]
    before = expected_quality(parts, scores, tasks, folds, seed=0)[7]
    after = expected_quality(parts, changed, tasks, folds, seed=0)[7]
    assert np.abs(after - before).max() < 0.02


def test_unknown_verdicts_stay_unknown():
    parts, scores, _ = world()
    scores[5] = np.nan
    found = expected_quality(
        parts, scores, np.full(len(parts), "t"), np.arange(len(parts)) % 5, seed=0
    )
    assert np.isnan(found[5]).all()
    assert not np.isnan(np.delete(found, 5, axis=0)).any()


@pytest.mark.parametrize(("signal", "low", "high"), [(0.0, 0.0, 0.1), (1.0, 0.85, 1.0)])
def test_belief_is_the_share_that_came_true(signal, low, high):
    rng = np.random.default_rng(3)
    told = rng.normal(size=2000)
    true = signal * told + rng.normal(size=2000)
    assert low <= belief(told, true) <= high


def test_a_constant_prediction_is_worth_nothing():
    assert belief(np.ones(50), np.random.default_rng(0).random(50)) == 0.0
