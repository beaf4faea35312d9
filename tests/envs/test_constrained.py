"""The environments as researchers of constrained RL read them: costs, masks, specs, rendering."""

import pickle

import gymnasium
import numpy as np
import pytest

import envs.registration
from envs.errors import ConfigError
from envs.requests.workload import generate_requests
from tests import made

REPLAY = "sprout/Llama2Replay-v0"
FLOOR = 0.9


@pytest.fixture
def path(tmp_path):
    """Path of a profile whose brief answers keep half of the quality, very brief ones nothing."""
    worth = {"none": 1.0, "brief": 0.5, "very_brief": 0.0}
    made.profile(tmp_path, generate_requests(8, seed=0), lambda r, d: worth[d])
    return str(tmp_path / "profile.parquet")


def make(path, **arguments):
    return gymnasium.make(REPLAY, profile=path, floor=FLOOR, **arguments)


@pytest.mark.parametrize(("action", "cost"), [(0, FLOOR - 1), (1, FLOOR - 0.5), (2, FLOOR)])
def test_the_cost_of_a_floor_is_the_floor_less_the_relative_quality(path, action, cost):
    env = make(path)
    env.reset(seed=1)
    *_, info = env.step(action)
    assert info["cost"] == pytest.approx(cost)
    assert info["costs"].pop(info["task"]) == pytest.approx(cost)
    assert set(info["costs"].values()) == {0.0}
    assert info["action"] == action
    assert info["action_mask"].tolist() == [True, True, True]


def test_the_reward_can_leave_the_penalty_to_the_algorithm(path):
    env, penalised = make(path, reward_mode="footprint"), make(path)
    for one in (env, penalised):
        one.reset(seed=1)
    _, reward, *_, info = env.step(1)
    _, both, *_ = penalised.step(1)
    assert reward == info["terms"]["footprint"]
    assert both == pytest.approx(sum(info["terms"].values()))
    assert both != pytest.approx(reward)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"floor": 2.0}, "floor 2.0"),
        ({"floor": float("nan")}, "floor nan"),
        ({"step_seconds": -1.0}, "step_seconds -1.0"),
        ({"step_seconds": float("nan")}, "step_seconds nan"),
        ({"episode_requests": 0}, "episode_requests 0"),
        ({"reward_mode": "greedy"}, "reward_mode 'greedy': give one of penalised, footprint"),
    ],
)
def test_arguments_that_make_no_environment_are_refused_at_make(path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        gymnasium.make(REPLAY, profile=path, **arguments)


def test_an_unknown_render_mode_is_refused_at_make(path):
    with pytest.raises(ConfigError, match="render_mode 'human'"):
        envs.registration.make_replay("human", profile=path)


def test_a_spec_can_be_stored_and_an_environment_pickled(path):
    env = make(path, render_mode="ansi")
    spec = gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json())
    again = gymnasium.make(spec)
    copy = pickle.loads(pickle.dumps(env))
    first = [one.reset(seed=3)[0] for one in (env, again, copy)]
    second = [one.step(1)[0] for one in (env, again, copy)]
    for observations in (first, second):
        assert np.array_equal(observations[0], observations[1])
        assert np.array_equal(observations[0], observations[2])


def test_rendering_shows_the_request_the_choice_and_what_it_cost(path):
    env = make(path, render_mode="ansi")
    env.reset(seed=1)
    assert env.render() == ""
    *_, info = env.step(1)
    lines = env.render().splitlines()
    assert len(lines) == 5
    assert f"task {info['task']}" in lines[0]
    assert "directive 1" in lines[1]
    assert "10 tokens" in lines[2]
    assert f"{info['task']} +0.40" in lines[4]


def test_vector_and_scalar_info_agree_with_masks_of_what_is_known(path):
    vector = gymnasium.make_vec(REPLAY, num_envs=3, profile=path, floor=FLOOR)
    scalars = [make(path) for _ in range(3)]
    vector.reset(seed=5)
    for lane, env in enumerate(scalars):
        env.reset(seed=5 + lane)
    actions = np.array([0, 1, 2])
    info = vector.step(actions)[-1]
    for lane, env in enumerate(scalars):
        own = env.step(actions[lane])[-1]
        for name in ("cost", "task", "action", "completion_tokens", "correct"):
            assert info[f"_{name}"][lane]
            assert info[name][lane] == own[name]
        assert {name: float(values[lane]) for name, values in info["costs"].items()} == own["costs"]
        assert np.array_equal(info["action_mask"][lane], own["action_mask"])
        # Nobody judged a preference.
        assert "preference" not in own
        assert not info["_preference"][lane]
