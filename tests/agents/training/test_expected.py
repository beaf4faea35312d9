import numpy as np
import pytest

from agents.training.expected import expected_cost, expected_quality, shrinkage


def world(count=600, seed=0):
    """Half the prompts lose everything when brief, by one visible feature; verdicts are tosses."""
    rng = np.random.default_rng(seed)
    hard = rng.random(count) < 0.5
    parts = np.column_stack([hard, rng.normal(size=count)]).astype(np.float32)
    chance = np.column_stack([np.full(count, 0.8), np.where(hard, 0.1, 0.8)])
    return parts, (rng.random((count, 2)) < chance).astype(float), chance


def foretold(parts, scores, length=None, tasks=None):
    count = len(parts)
    length = np.zeros(count) if length is None else length
    tasks = np.full(count, "t") if tasks is None else tasks
    return expected_quality(parts, length, scores, tasks, np.arange(count) % 5, seed=0)


def test_it_is_nearer_to_the_truth_than_the_verdicts_are():
    parts, scores, chance = world()
    found = foretold(parts, scores)
    assert ((found - chance) ** 2).mean() < 0.05 * ((scores - chance) ** 2).mean()


def test_what_the_features_do_not_tell_becomes_the_tasks_mean_difference():
    rng = np.random.default_rng(1)
    parts = rng.normal(size=(600, 3)).astype(np.float32)
    scores = (rng.random((600, 2)) < [0.8, 0.5]).astype(float)
    found = foretold(parts, scores, rng.normal(size=600))
    difference = found[:, 1] - found[:, 0]
    assert difference.mean() == pytest.approx((scores[:, 1] - scores[:, 0]).mean())
    assert difference.std() < 0.05


def test_a_loss_that_grows_with_the_answers_length_is_found():
    """Also where trees, on so many useless features and so few prompts, find little."""
    rng = np.random.default_rng(2)
    length = rng.normal(size=400)
    parts = np.column_stack([length, rng.normal(size=(400, 40))]).astype(np.float32)
    loss = np.clip(0.25 + 0.12 * length, 0, 1)
    scores = np.column_stack([np.full(400, 0.9), 0.9 - loss])
    tosses = (rng.random((400, 2)) < scores).astype(float)
    found = foretold(parts, tosses, length)
    difference = found[:, 1] - found[:, 0]
    assert np.corrcoef(difference, -loss)[0, 1] > 0.9
    assert difference.std() < 1.3 * loss.std()


def test_what_a_line_leaves_the_trees_find():
    """A loss that grows with the length, and half of the prompts lose nothing at all."""
    rng = np.random.default_rng(6)
    length, spared = rng.normal(size=1200), rng.random(1200) < 0.5
    parts = np.column_stack([length, spared]).astype(np.float32)
    loss = np.where(spared, 0, np.clip(0.4 + 0.2 * length, 0, 0.9))
    scores = np.column_stack([np.full(1200, 0.9), 0.9 - loss])
    tosses = (rng.random((1200, 2)) < scores).astype(float)
    difference = np.diff(foretold(parts, tosses, length))[:, 0]
    assert ((difference + loss) ** 2).mean() < 0.35 * loss.var()


def test_a_prompts_own_verdict_moves_it_only_through_its_tasks_mean():
    parts, scores, _ = world()
    changed = scores.copy()
    changed[7, 1] = 1 - changed[7, 1]
    before, after = foretold(parts, scores)[7], foretold(parts, changed)[7]
    assert np.abs(after - before).max() < 0.02


def test_unknown_verdicts_stay_unknown():
    parts, scores, _ = world()
    scores[5] = np.nan
    found = foretold(parts, scores)
    assert np.isnan(found[5]).all()
    assert not np.isnan(np.delete(found, 5, axis=0)).any()


def test_expected_costs_keep_each_tasks_mean_and_forget_a_prompts_own():
    rng = np.random.default_rng(4)
    tasks = np.array(["a", "b"] * 100)
    told = rng.normal(size=(200, 3)) - [0, 1, 2]
    costs = np.exp(told + rng.normal(size=told.shape)) * 50
    found = expected_cost(told, costs, tasks)
    for task in ("a", "b"):
        rows = tasks == task
        assert found[rows].mean(axis=0) == pytest.approx(costs[rows].mean(axis=0))
    # Two prompts of which the same is foretold are expected to cost the same.
    told[2] = told[0]
    assert expected_cost(told, costs, tasks)[[0, 2]].std(axis=0) == pytest.approx(0)


def test_costs_foretold_wrongly_become_their_tasks_mean():
    rng = np.random.default_rng(5)
    told = rng.normal(size=(300, 2))
    costs = np.exp(-told)
    found = expected_cost(told, costs, np.full(300, "t"))
    assert found == pytest.approx(np.tile(costs.mean(axis=0), (300, 1)))


@pytest.mark.parametrize(("signal", "low", "high"), [(0.0, 0.0, 0.1), (1.0, 0.85, 1.0)])
def test_belief_is_the_share_that_came_true(signal, low, high):
    rng = np.random.default_rng(3)
    told = rng.normal(size=2000)
    true = signal * told + rng.normal(size=2000)
    assert low <= shrinkage(told, true) <= high


def test_a_constant_prediction_is_worth_nothing():
    assert shrinkage(np.ones(50), np.random.default_rng(0).random(50)) == 0.0
