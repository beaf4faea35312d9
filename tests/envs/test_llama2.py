import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from agents.training.sb3 import Lanes
from envs.errors import ConfigError
from envs.problem.arguments import ReplayArguments
from envs.requests.mix import Mix, mix_from_job_counts
from envs.requests.request import Request
from envs.requests.workload import generate_requests
from envs.world import World
from envs.worlds import replay_world
from tests import made

REPLAY = "envs.registration:sprout/Llama2Replay-v0"
LIVE = "envs.registration:sprout/Llama2Live-v0"


@pytest.fixture
def profile(tmp_path):
    return made.profile(
        tmp_path, generate_requests(8, seed=0), lambda r, d: float(d != "very_brief")
    )


def test_the_replay_environment_passes_both_checkers(profile):
    env = gymnasium.make(REPLAY, profile=profile).unwrapped
    check_env(env)
    sb3_check_env(env)


def test_replay_with_arrivals_and_a_mix_repeats_by_seed(profile, tmp_path):
    (tmp_path / "arrivals.csv").write_text(made.ARRIVALS)
    (tmp_path / "mix.csv").write_text("hour,arithmetic,choice,recall,sequence\n0,.1,.2,.3,.4\n")
    env = gymnasium.make(
        REPLAY,
        profile=profile,
        mix=str(tmp_path / "mix.csv"),
        arrivals=str(tmp_path / "arrivals.csv"),
    ).unwrapped
    check_env(env)
    first_run = [env.reset(seed=4)[0], *(env.step(0)[0] for _ in range(6))]
    second_run = [env.reset(seed=4)[0], *(env.step(0)[0] for _ in range(6))]
    assert np.array_equal(first_run, second_run)
    in_flight = env.world.featurizer.names.index("in_flight")
    assert [observation[in_flight] for observation in first_run[:4]] != [0, 0, 0, 0]


def test_the_reward_is_the_sum_of_its_terms_for_footprint_and_quality(profile):
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


def test_an_episode_is_truncated_after_its_number_of_requests(profile):
    env = gymnasium.make(REPLAY, profile=profile, max_episode_steps=3)
    assert env.spec.max_episode_steps == 3
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(3)] == [False, False, True]


def test_without_a_number_an_episode_has_that_of_the_spec(profile):
    env, vector = (
        gymnasium.make(REPLAY, profile=profile),
        gymnasium.make_vec(REPLAY, num_envs=2, profile=profile),
    )
    assert env.spec.max_episode_steps == vector.spec.max_episode_steps == 64
    env.reset(seed=0)
    vector.reset(seed=0)
    ends = [(env.step(0)[3], vector.step(np.zeros(2, dtype=int))[3].all()) for _ in range(64)]
    assert ends == [(False, False)] * 63 + [(True, True)]


def test_long_episodes_keep_the_vector_and_the_scalar_environment_equal(profile):
    vector = gymnasium.make_vec(REPLAY, num_envs=1, profile=profile, max_episode_steps=200)
    env = gymnasium.make(REPLAY, profile=profile, max_episode_steps=200)
    scalar = np.stack([env.reset(seed=3)[0], *(env.step(0)[0] for _ in range(150))])
    still = np.zeros(1, dtype=np.int64)
    lane = np.stack([vector.reset(seed=3)[0][0], *(vector.step(still)[0][0] for _ in range(150))])
    assert np.array_equal(scalar, lane)
    # New random numbers are drawn: requests of the second hundred differ from the first.
    assert not np.array_equal(scalar[:65], scalar[65:130])


@pytest.mark.parametrize("with_arrivals", [False, True])
def test_the_vector_environment_equals_as_many_scalar_ones(profile, tmp_path, with_arrivals):
    arguments = {
        "profile": profile,
        "mix": mix_from_job_counts(np.arange(1.0, 50.0), profile.tasks, 60, seed=1),
    }
    if with_arrivals:
        arguments["arrivals"] = tmp_path / "arrivals.csv"
        arguments["arrivals"].write_text(made.ARRIVALS)
    vector = gymnasium.make_vec(REPLAY, num_envs=6, max_episode_steps=5, **arguments)
    scalars = SyncVectorEnv(
        [lambda: gymnasium.make(REPLAY, max_episode_steps=5, **arguments)] * 6,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    observations, scalar_observations = vector.reset(seed=11)[0], scalars.reset(seed=11)[0]
    rng = np.random.default_rng(0)
    for step in range(1, 18):
        assert np.array_equal(observations, scalar_observations)
        actions = rng.integers(0, 3, 6)
        observations, rewards, _, truncated, info = vector.step(actions)
        scalar_observations, scalar_rewards, _, scalar_truncated, scalar_info = scalars.step(
            actions
        )
        assert np.array_equal(rewards, scalar_rewards)
        assert truncated.tolist() == scalar_truncated.tolist() == [step % 5 == 0] * 6
        if step % 5 == 0:
            assert np.array_equal(info["final_obs"], np.stack(scalar_info["final_obs"]))
        else:
            assert np.array_equal(info["footprint_grams"], scalar_info["footprint_grams"])


def test_the_lanes_for_sb3_give_the_steps_of_the_vector_environment(profile):
    lanes = Lanes(gymnasium.make_vec(REPLAY, num_envs=4, profile=profile))
    vector = gymnasium.make_vec(REPLAY, num_envs=4, profile=profile)
    lanes.seed(3)
    seeds = np.random.SeedSequence(3).generate_state(4).tolist()
    assert np.array_equal(lanes.reset(), vector.reset(seed=seeds)[0])
    actions = np.array([0, 1, 2, 1])
    observations, rewards, done, _ = lanes.step(actions)
    expected = vector.step(actions)
    assert np.array_equal(observations, expected[0])
    assert np.allclose(rewards, expected[1])
    assert done.tolist() == expected[3].tolist()


def test_a_mix_sets_the_tasks_of_each_hour(profile):
    hours = np.zeros((24, 4))
    hours[np.arange(24), np.arange(24) % 4] = 1
    env = gymnasium.make_vec(
        REPLAY, num_envs=500, profile=profile, mix=Mix(profile.tasks, hours), max_episode_steps=3
    )
    world = env.unwrapped.world
    env.reset(seed=0)
    start = world.trace.start
    for _ in range(2):
        hour = ((world._times - start) // 3600).astype(int)
        info = env.step(np.zeros(500, dtype=np.int64))[4]
        assert world.tasks[info["row"]].tolist() == [profile.tasks[h % 4] for h in hour]


def test_a_world_refuses_a_step_after_the_end_of_an_episode(profile):
    world: World = replay_world(ReplayArguments(profile=profile), max_episode_steps=1)
    world.reset(seed=0)
    world.step(np.array([0]))
    with pytest.raises(ValueError, match="reset"):
        world.step(np.array([0]))


def test_an_action_outside_the_catalogue_is_refused(profile):
    world: World = replay_world(ReplayArguments(profile=profile))
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
    assert set(info["energy_method"]) <= {"attributed", "estimated"}
    assert info["completion_tokens"][0::2].mean() > 3 * info["completion_tokens"][1::2].mean()


def test_a_live_task_without_a_right_answer_is_refused_unless_it_has_no_floor(llama):
    impossible = Request("1", "riddle", ({"role": "user", "content": "Say x."},), "never said")
    arguments = {"upstream": llama.url, "model": llama.model, "requests": [impossible]}
    with pytest.raises(ConfigError, match=r"'riddle': none of 1 answers .*floors=\{'riddle': 0\}"):
        gymnasium.make(LIVE, **arguments)
    env = gymnasium.make(LIVE, floors={"riddle": 0}, **arguments)
    env.reset(seed=0)
    _, _, _, _, info = env.step(0)
    assert info["cost"] == 0
    assert info["costs"] == {"riddle": 0}
    assert np.isfinite(info["energy_joules"])
    env.close()


def test_a_request_that_asks_for_a_length_is_played_at_l0(tmp_path):
    kinds = {"free": "What is {n}?", "bound": "Explain {n} in two sentences."}
    profile = made.profile(tmp_path, made.chats(40, kinds), lambda r, d: 1.0)
    env = gymnasium.make_vec(REPLAY, num_envs=64, profile=profile)
    env.reset(seed=0)
    played_tasks = set()
    for _ in range(4):
        masks = env.action_masks()
        _, _, _, _, info = env.step(np.full(64, 2))
        bound = ~masks[:, 1]
        assert masks[:, 0].all()
        assert set(info["completion_tokens"][bound]) <= {made.TOKENS["none"]}
        assert set(info["completion_tokens"][~bound]) <= {made.TOKENS["very_brief"]}
        tasks = np.array([profile.requests[row].task for row in info["row"]])
        assert np.array_equal(bound, tasks == "bound")
        played_tasks |= set(tasks)
    assert played_tasks == set(kinds)
