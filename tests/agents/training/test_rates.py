import numpy as np
import pytest

from agents.training.rates import fit_rates
from envs.energy.profile_rates import ProfileRates
from tests import made


def test_the_mean_of_each_directive_is_the_measured_one(tmp_path):
    profile = made.profile(tmp_path, made.chats(50, {"a": "{n}?"}), lambda request, name: 1.0)
    outcomes = profile.outcomes
    rng = np.random.default_rng(0)
    joules = 5 + 0.1 * outcomes.prompt_tokens + 2 * outcomes.completion_tokens
    joules = joules * np.array([1.0, 1.2, 0.9]) * rng.uniform(0.95, 1.05, joules.shape)
    outcomes.energy_joules[:] = joules
    rates = ProfileRates.from_manifest({"rates": fit_rates(profile).to_manifest()})
    for column, name in enumerate(profile.directives):
        work = zip(
            outcomes.prompt_tokens[:, column], outcomes.completion_tokens[:, column], strict=True
        )
        costs = [rates.cost(p, c, name) for p, c in work]
        assert np.mean([cost[0] for cost in costs]) == pytest.approx(joules[:, column].mean())
        assert 0 < costs[0][2] / costs[0][0] < 0.1
