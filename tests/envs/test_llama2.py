import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from envs.registration import replay_world
from envs.workload import generate
from envs.world import World
from tests import made

REPLAY = "envs.registration:sprout/Llama2Replay-v0"
LIVE = "envs.registration:sprout/Llama2Live-v0"


@pytest.fixture
def profile(tmp_path):
    return made.profile(tmp_path, generate(8, seed=0), lambda r, d: float(d != "very_brief"))


def test_replay_passes_both_checkers(profile):
    env = gymnasium.make(REPLAY, profile=profile).unwrapped
    check_env(env)
    sb3_check_env(env)


def test_reward_is_the_sum_of_its_terms_and_brevity_pays(profile):
    env = gymnasium.make(REPLAY, profile=profile, intensity=None)
    rewards = []
    for action in (0, 1, 2):
        env.reset(seed=5)
        _, reward, terminated, _, info = env.step(action)
        assert not terminated
        assert reward == pytest.approx(sum(info["terms"].values()))
        rewards.append((info["terms"]["footprint"], info["terms"]["quality"]))
    footprints = [footprint for footprint, _ in rewards]
    assert footprints == sorted(footprints)
    assert rewards[0][1] == rewards[1][1] > 0 > rewards[2][1]


def test_an_episode_is_truncated_after_its_requests(profile):
    env = gymnasium.make(REPLAY, profile=profile, episode_requests=3)
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(3)] == [False, False, True]


def test_one_lane_of_the_vector_is_the_scalar(profile):
    scalar = gymnasium.make(REPLAY, profile=profile)
    vector = gymnasium.make_vec(REPLAY, num_envs=1, profile=profile)
    left, right = scalar.reset(seed=11)[0], vector.reset(seed=11)[0][0]
    for action in (0, 2, 1, 1, 0):
        assert np.array_equal(left, right)
        left, reward, *_ = scalar.step(action)
        observations, rewards, *_ = vector.step(np.array([action]))
        right = observations[0]
        assert reward == rewards[0]


def test_an_action_outside_the_catalogue_is_refused(profile):
    world: World = replay_world(profile)
    world.reset(seed=0)
    with pytest.raises(ValueError, match=r"0\.\.2"):
        world.step(np.array([3]))


def test_the_live_environment_passes_both_checkers(llama):
    env = gymnasium.make(LIVE, upstream=llama.url, model=llama.model).unwrapped
    check_env(env)
    sb3_check_env(env)


def test_live_lanes_run_together_and_are_metered(llama):
    env = gymnasium.make_vec(LIVE, num_envs=16, upstream=llama.url, model=llama.model)
    observations, _ = env.reset(seed=1)
    in_flight = list(env.unwrapped.world.featurizer.names).index("in_flight")
    assert observations[:, in_flight].tolist() == list(range(16))
    actions = np.array([0, 2] * 8)
    _, rewards, _, _, info = env.step(actions)
    assert np.isfinite(rewards).all()
    assert (info["energy_joules"] > 0).all()
    assert info["completion_tokens"][0::2].mean() > 3 * info["completion_tokens"][1::2].mean()
