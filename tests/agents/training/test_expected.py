import numpy as np
import pytest

from agents.training.expected import expected_cost, expected_quality, shrinkage


def world(count=600, seed=0):
    """Prompts half of which lose nearly all quality if brief; verdicts are random.

    A feature shows which half a prompt is in. Returns features, verdicts and their probabilities.
    """
    rng = np.random.default_rng(seed)
    hard = rng.random(count) < 0.5
    parts = np.column_stack([hard, rng.normal(size=count)]).astype(np.float32)
    chance = np.column_stack([np.full(count, 0.8), np.where(hard, 0.1, 0.8)])
    return parts, (rng.random((count, 2)) < chance).astype(float), chance


def predicted_quality(parts, scores, length=None, tasks=None):
    count = len(parts)
    length = np.zeros(count) if length is None else length
    tasks = np.full(count, "t") if tasks is None else tasks
    return expected_quality(parts, length, scores, tasks, np.arange(count) % 5, seed=0)


def test_expected_quality_is_nearer_to_the_truth_than_the_verdicts():
    parts, scores, chance = world()
    expected = predicted_quality(parts, scores)
    assert ((expected - chance) ** 2).mean() < 0.05 * ((scores - chance) ** 2).mean()


def test_without_informative_features_all_prompts_get_the_tasks_mean_difference():
    rng = np.random.default_rng(1)
    parts = rng.normal(size=(600, 3)).astype(np.float32)
    scores = (rng.random((600, 2)) < [0.8, 0.5]).astype(float)
    expected = predicted_quality(parts, scores, rng.normal(size=600))
    difference = expected[:, 1] - expected[:, 0]
    assert difference.mean() == pytest.approx((scores[:, 1] - scores[:, 0]).mean())
    assert difference.std() < 0.05


def test_a_loss_that_grows_with_the_answers_length_is_found():
    """Trees would find little of it, with so many useless features and so few prompts."""
    rng = np.random.default_rng(2)
    length = rng.normal(size=400)
    parts = np.column_stack([length, rng.normal(size=(400, 40))]).astype(np.float32)
    loss = np.clip(0.25 + 0.12 * length, 0, 1)
    scores = np.column_stack([np.full(400, 0.9), 0.9 - loss])
    verdicts = (rng.random((400, 2)) < scores).astype(float)
    expected = predicted_quality(parts, verdicts, length)
    difference = expected[:, 1] - expected[:, 0]
    assert np.corrcoef(difference, -loss)[0, 1] > 0.9
    assert difference.std() < 1.3 * loss.std()


def test_trees_find_the_loss_that_a_line_leaves():
    """The loss grows with the length, but half of the prompts lose nothing at all."""
    rng = np.random.default_rng(6)
    length, spared = rng.normal(size=1200), rng.random(1200) < 0.5
    parts = np.column_stack([length, spared]).astype(np.float32)
    loss = np.where(spared, 0, np.clip(0.4 + 0.2 * length, 0, 0.9))
    scores = np.column_stack([np.full(1200, 0.9), 0.9 - loss])
    verdicts = (rng.random((1200, 2)) < scores).astype(float)
    difference = np.diff(predicted_quality(parts, verdicts, length))[:, 0]
    assert ((difference + loss) ** 2).mean() < 0.35 * loss.var()


def test_a_prompts_own_verdict_changes_its_expected_quality_only_by_the_task_mean():
    parts, scores, _ = world()
    changed = scores.copy()
    changed[7, 1] = 1 - changed[7, 1]
    before, after = predicted_quality(parts, scores)[7], predicted_quality(parts, changed)[7]
    assert np.abs(after - before).max() < 0.02


def test_unknown_verdicts_stay_unknown():
    parts, scores, _ = world()
    scores[5] = np.nan
    expected = predicted_quality(parts, scores)
    assert np.isnan(expected[5]).all()
    assert not np.isnan(np.delete(expected, 5, axis=0)).any()


def test_expected_costs_keep_each_tasks_mean_and_ignore_a_prompts_own_cost():
    rng = np.random.default_rng(4)
    tasks = np.array(["a", "b"] * 100)
    predictions = rng.normal(size=(200, 3)) - [0, 1, 2]
    costs = np.exp(predictions + rng.normal(size=predictions.shape)) * 50
    expected = expected_cost(predictions, costs, tasks)
    for task in ("a", "b"):
        rows = tasks == task
        assert expected[rows].mean(axis=0) == pytest.approx(costs[rows].mean(axis=0))
    # Two prompts with equal predictions are expected to cost the same.
    predictions[2] = predictions[0]
    assert expected_cost(predictions, costs, tasks)[[0, 2]].std(axis=0) == pytest.approx(0)


def test_wrongly_predicted_costs_become_their_tasks_mean():
    rng = np.random.default_rng(5)
    predictions = rng.normal(size=(300, 2))
    costs = np.exp(-predictions)
    expected = expected_cost(predictions, costs, np.full(300, "t"))
    assert expected == pytest.approx(np.tile(costs.mean(axis=0), (300, 1)))


@pytest.mark.parametrize(("signal", "low", "high"), [(0.0, 0.0, 0.1), (1.0, 0.85, 1.0)])
def test_shrinkage_is_the_share_of_a_prediction_that_came_true(signal, low, high):
    rng = np.random.default_rng(3)
    predictions = rng.normal(size=2000)
    outcomes = signal * predictions + rng.normal(size=2000)
    assert low <= shrinkage(predictions, outcomes) <= high


def test_a_constant_prediction_is_shrunk_to_nothing():
    assert shrinkage(np.ones(50), np.random.default_rng(0).random(50)) == 0.0
