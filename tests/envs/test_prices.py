"""Prices that an environment draws, shows, and rewards by."""

import gymnasium
import numpy as np
import pytest

import envs.registration  # noqa: F401, registers the environments
from envs.errors import ConfigError
from envs.outcomes.limits import Limit
from envs.outcomes.prices import LATENCY_RANGE
from envs.problem.arguments import ReplayArguments
from envs.requests.workload import generate_requests
from envs.worlds import replay_world
from tests import made

RANGE = (0.1, 50.0)
REPLAY = "sprout/Llama2Replay-v0"


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    worth = {"none": 1.0, "brief": 0.5, "very_brief": 0.0}
    requests = generate_requests(20, seed=0)
    return made.profile(tmp_path_factory.mktemp("prices"), requests, lambda r, d: worth[d])


def world(profile, lanes=256, **arguments):
    return replay_world(ReplayArguments(profile=profile, **arguments), lanes=lanes)


def shown(made_world, observations):
    return observations[:, made_world.featurizer.prices.start]


def test_each_lane_keeps_its_price_through_an_episode_and_draws_another_in_the_next(profile):
    made_world = world(profile, price_range=RANGE)
    first = shown(made_world, made_world.reset(seed=0))
    for _ in range(3):
        step = made_world.step(np.zeros(256, dtype=np.int64))
        assert np.array_equal(shown(made_world, step.observations), first)
    assert not np.array_equal(shown(made_world, made_world.reset()), first)
    low, high = np.log(RANGE)
    assert low <= first.min() < low + 0.2
    assert high - 0.2 < first.max() <= high
    # Log-uniform: as many below the geometric mean as above.
    assert abs((first < (low + high) / 2).mean() - 0.5) < 0.1


def test_a_seed_draws_the_same_requests_with_and_without_prices(profile):
    plain, priced = world(profile), world(profile, price_range=RANGE)
    for made_world in (plain, priced):
        made_world.reset(seed=3)
    actions = np.ones(256, dtype=np.int64)
    one, other = plain.step(actions), priced.step(actions)
    assert np.array_equal(one.rows, other.rows)
    assert np.array_equal(one.intensity, other.intensity)
    assert not shown(plain, one.observations).any()


def test_the_reward_is_that_of_the_drawn_price_of_one_size_for_all(profile):
    made_world = world(profile, price_range=RANGE)
    prices = np.exp(shown(made_world, made_world.reset(seed=1)).astype(np.float64))
    step = made_world.step(np.ones(256, dtype=np.int64))
    reward = made_world.reward
    footprint = -step.grams / reward.footprint_ref_grams
    margin = step.outcomes.correct / 1.0 - 0.95
    expected = (footprint + prices * margin) / (1 + prices)
    assert step.rewards == pytest.approx(expected, rel=1e-5)
    assert np.sum(list(step.terms.values()), axis=0) == pytest.approx(step.rewards)


def test_the_rewards_of_each_directive_are_those_that_steps_earn(profile):
    made_world = world(profile, price_range=RANGE, lanes=64)
    for action in range(3):
        made_world.reset(seed=5)
        rewards = made_world.rewards_of_each()
        actions = np.full(64, action)
        assert made_world.step(actions).rewards == pytest.approx(rewards[:, action])


def test_skipping_goes_on_as_a_step_does(profile):
    one, other = world(profile, price_range=RANGE), world(profile, price_range=RANGE)
    one.reset(seed=2)
    other.reset(seed=2)
    for _ in range(5):
        skipped = one.skip()
        stepped = other.step(np.zeros(256, dtype=np.int64)).observations
        assert np.array_equal(skipped, stepped)


def test_a_price_of_latency_is_drawn_only_if_there_are_limits(profile):
    made_world = world(profile, price_range=RANGE)
    column = made_world.featurizer.prices.start + 1
    assert len(np.unique(made_world.reset(seed=0)[:, column])) == 1
    made_world.reward.limits = {"recall": Limit(mean_seconds=0.2)}
    latencies = made_world.reset(seed=0)[:, column]
    low, high = np.log(LATENCY_RANGE)
    assert low <= latencies.min() < latencies.max() <= high


def test_the_extremes_of_the_default_range_are_least_cost_and_best_quality(profile):
    for price, best in ((0.02, 2), (100.0, 0)):
        made_world = world(profile, price_range=(price, price * 1.001))
        made_world.reset(seed=0)
        # Requests that state their own length have the same reward under every directive.
        free = made_world.action_masks().all(axis=1)
        assert (made_world.rewards_of_each()[free].argmax(axis=1) == best).mean() > 0.99


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"price_range": (2.0, 1.0)}, "the lower one first"),
        ({"price_range": (0.0, 1.0)}, "two numbers above 0"),
        ({"price_range": 3.0}, "two numbers above 0"),
        ({"price_range": (1.0, float("inf"))}, "two numbers above 0"),
        ({"price_range": RANGE, "multipliers": 2.0}, "give one of the two"),
    ],
)
def test_a_wrong_price_range_is_refused(profile, arguments, problem):
    with pytest.raises(ConfigError, match=problem):
        ReplayArguments(profile=profile, **arguments)


def test_gymnasium_makes_an_environment_that_draws_prices(profile):
    env = gymnasium.make(REPLAY, profile=profile, price_range=RANGE)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert observation[env.unwrapped.world.featurizer.prices.start] != 0
