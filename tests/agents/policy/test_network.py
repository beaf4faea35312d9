"""The policy network in NumPy."""

import itertools

import numpy as np
import pytest

from agents.policy.network import Policy


@pytest.mark.parametrize("clip", [5.0, float("inf")])
def test_a_blind_policy_acts_as_if_the_hidden_features_were_0(clip):
    rng = np.random.default_rng(0)

    def tensor(*shape):
        return rng.normal(size=shape).astype(np.float32)

    layers = (tensor(8, 6), tensor(8)), (tensor(3, 8), tensor(3))
    # A mean of 9 deviations is clipped.
    policy = Policy(np.array([0, 1, -1, 9, 2, 0], np.float32), abs(tensor(6)) + 1, layers, clip)
    seen = tensor(50, 6)
    zeroed = seen.copy()
    zeroed[:, [1, 3]] = 0
    blind = policy.blind_to((1, 3))
    assert blind.probabilities(seen) == pytest.approx(policy.probabilities(zeroed), abs=1e-5)
    assert blind.scale[[1, 3]].tolist() == [0, 0]
    assert not np.allclose(policy.probabilities(seen), policy.probabilities(zeroed), atol=0.05)


@pytest.mark.parametrize("clip", [1.0, float("inf")])
@pytest.mark.parametrize("widths", [(6, 3), (6, 8, 8, 3)])
def test_a_sweep_gives_the_probabilities_at_each_value_of_a_feature(clip, widths):
    rng = np.random.default_rng(0)

    def tensor(*shape):
        return rng.normal(size=shape).astype(np.float32)

    layers = tuple((tensor(b, a), tensor(b)) for a, b in itertools.pairwise(widths))
    policy = Policy(tensor(6), abs(tensor(6)) + 1, layers, clip)
    seen, values = tensor(50, 6), tensor(4, 2)
    before = seen.copy()
    for value, found in zip(values, policy.sweep(seen, (2, 3), values), strict=True):
        changed = seen.copy()
        changed[:, 2:4] = value
        assert found == pytest.approx(policy.probabilities(changed), abs=1e-5)
    assert (seen == before).all()


def test_a_sharpened_policy_has_its_log_odds_multiplied():
    layers = ((np.array([[1.0], [0.0], [-1.0]], np.float32), np.zeros(3, np.float32)),)
    policy = Policy(np.zeros(1, np.float32), np.ones(1, np.float32), layers)
    plain, sharp = (
        p.probabilities(np.ones((1, 1), np.float32))[0] for p in (policy, policy.sharpened(5))
    )
    assert np.log(plain[0] / plain[1]) == pytest.approx(1)
    assert np.log(sharp[0] / sharp[1]) == pytest.approx(5)
    assert policy.sharpened(5).sharpened(1 / 5).layers[0][0] == pytest.approx(layers[0][0])
