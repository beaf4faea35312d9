import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.policy.explain import contributions, distil, turning_points
from agents.policy.network import Policy
from envs.requests.features import GROUPS, Featurizer

FEATURIZER = Featurizer(["a", "b"])
WIDTH = len(FEATURIZER.names)
NAMES = {0: "none", 1: "brief", 2: "very_brief"}


def random_policy(seed):
    rng = np.random.default_rng(seed)
    layers = [
        (rng.normal(size=(8, WIDTH)), rng.normal(size=8)),
        (rng.normal(size=(3, 8)), np.ones(3)),
    ]
    return Policy(
        rng.normal(size=WIDTH).astype(np.float32),
        rng.uniform(0.1, 1, size=WIDTH).astype(np.float32),
        tuple((w.astype(np.float32), b.astype(np.float32)) for w, b in layers),
    )


def linear(bias=0.0, **weights):
    """Log-odds of very_brief against none, linear in named components."""
    weight = np.zeros((3, WIDTH), np.float32)
    for name, value in weights.items():
        weight[2, FEATURIZER.names.index(name)] = value
    bias = np.array([0, -50, bias], np.float32)
    zero, one = np.zeros(WIDTH, np.float32), np.ones(WIDTH, np.float32)
    return Policy(zero, one, ((weight, bias),), clip=float("inf"))


@given(st.integers(0, 10_000))
def test_contributions_sum_to_the_log_odds_minus_those_at_the_means(seed):
    policy = random_policy(seed)
    observation = np.random.default_rng(seed + 1).normal(size=WIDTH).astype(np.float32)
    chance = np.log(policy.probabilities(np.stack([observation, policy.mean])))
    odds = chance[:, 2] - chance[:, 0]
    terms = contributions(policy, FEATURIZER, observation, 2, 0)
    assert sum(terms.values()) == pytest.approx(odds[0] - odds[1], abs=1e-4)


def test_each_group_of_a_linear_policy_contributes_its_own_term():
    policy = linear(numbers=-0.5, log_intensity=2.0)
    observation = np.zeros(WIDTH, np.float32)
    observation[FEATURIZER.names.index("numbers")] = 4
    observation[FEATURIZER.names.index("log_intensity")] = 3
    terms = contributions(policy, FEATURIZER, observation, 2, 0)
    assert terms == pytest.approx(
        dict.fromkeys(GROUPS, 0.0) | {"structure": -2.0, "carbon": 6.0}, abs=1e-5
    )


def test_the_turning_point_is_where_the_odds_are_even():
    observation = np.zeros(WIDTH, np.float32)
    policy = linear(log_intensity=1.0, bias=-np.log(201))
    first, second = turning_points(policy, FEATURIZER, observation)
    assert first == (0.0, 0)
    assert second[1] == 2
    assert second[0] == pytest.approx(200, rel=0.02)


def test_a_policy_that_is_a_tree_is_distilled_exactly():
    policy = linear(numbers=10.0, bias=-25.0)
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(2000, WIDTH)).astype(np.float32)
    observations[:, FEATURIZER.names.index("numbers")] = rng.integers(0, 6, 2000)
    observations[:, FEATURIZER.names.index("own_length")] = 0
    tree = distil(policy, FEATURIZER, observations, NAMES)
    assert tree.leaves == 2
    assert tree.fidelity == 1.0
    assert 0.4 < tree.usual < 0.6
    assert "numbers <= 2.50" in tree.rules
    assert "very_brief" in tree.rules


def test_a_tree_never_has_more_leaves_than_requested():
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(2000, WIDTH)).astype(np.float32)
    tree = distil(random_policy(3), FEATURIZER, observations, NAMES, leaves=12)
    assert 2 <= tree.leaves <= 12
    assert tree.usual <= tree.fidelity <= 1
    with pytest.raises(ValueError, match="too few"):
        distil(random_policy(3), FEATURIZER, observations[:1], NAMES)
