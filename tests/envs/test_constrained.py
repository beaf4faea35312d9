"""The environments as researchers of constrained RL read them: costs, masks, specs, rendering."""

import pickle

import gymnasium
import minari
import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnvWrapper

import envs.registration
from agents.training.sb3 import Lanes
from envs.constrained import CostInStep
from envs.errors import ConfigError, SproutError
from envs.requests.workload import generate_requests
from tests import made

REPLAY = "sprout/Llama2Replay-v0"
FLOOR = 0.9


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


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
        ({"floor": "high"}, "floor 'high'"),
        ({"floors": {"arithmetic": 1.5}}, r"floors\['arithmetic'\] 1.5"),
        ({"floors": {"maths": 0.9}}, "no task 'maths'; the tasks are arithmetic, choice"),
        ({"multipliers": -1.0}, "multipliers -1.0"),
        ({"multipliers": {"arithmetic": float("inf")}}, r"multipliers\['arithmetic'\] inf"),
        ({"multipliers": {"maths": 1.0}}, "no constraint 'maths'; there are arithmetic"),
        ({"quality": "taste"}, "quality 'taste': give one of correct, preference"),
        ({"quality": "preference"}, "no task of the profile has a known quality 'preference'"),
        ({"split": "test"}, "split 'test': give one of all, train, held_out"),
        ({"split": "train"}, "split 'train' with hold_out 0.0: give"),
        ({"hold_out": 0.3}, "split 'all' with hold_out 0.3: give"),
        ({"split": "train", "hold_out": 1.0}, "leaves no request to replay"),
        ({"like": "nowhere"}, "nowhere is no policy bundle"),
        ({"like": "nowhere", "floor": 0.9}, "floor: the bundle given as `like` fixes it"),
        ({"like": "nowhere", "hold_out": 0.2}, "hold_out: the bundle given as `like` fixes it"),
        ({"like": 3}, "like 3: give the path"),
        ({"like": __file__}, "is no policy bundle"),
        ({"zone": ["NL"]}, r"zone \['NL'\]: give a name"),
        ({"model": 13}, "model 13: give a name"),
        ({"flor": 0.9}, "no argument 'flor'; the arguments are quality, floor, floors"),
        ({"floor": True}, "floor True: give a ratio"),
        ({"floors": 0.9}, "floors 0.9: give a mapping"),
        ({"multipliers": True}, "multipliers True: give a finite number"),
        ({"hold_out": "0.3"}, "hold_out '0.3': give a share"),
        ({"step_seconds": "60"}, "step_seconds '60': give a number above 0"),
        ({"mix": 3}, "mix 3: give the path"),
        ({"arrivals": 3}, "arrivals 3: give the path"),
        ({"intensity": [None]}, "intensity None: give the path"),
        ({"zone": "DE"}, "zone 'DE': the synthetic day has no zones; give intensity"),
        ({"reward_mode": "greedy"}, "reward_mode 'greedy': give one of penalised, footprint"),
    ],
)
def test_arguments_that_make_no_environment_are_refused_at_make(path, arguments, message):
    with pytest.raises(SproutError, match=message):
        gymnasium.make(REPLAY, profile=path, **arguments)


def test_an_environment_without_its_data_names_the_argument_that_is_missing():
    with pytest.raises(ConfigError, match="argument 'profile' is missing"):
        gymnasium.make(REPLAY)
    with pytest.raises(ConfigError, match="argument 'upstream' is missing"):
        gymnasium.make_vec("sprout/Llama2Live-v0", num_envs=2)


@pytest.mark.parametrize("steps", [0, 2.5, float("nan"), True, "5"])
def test_a_vector_environments_episode_must_have_a_whole_number_of_steps(path, steps):
    with pytest.raises(ConfigError, match="max_episode_steps"):
        gymnasium.make_vec(REPLAY, num_envs=2, profile=path, max_episode_steps=steps)


def test_minus_one_means_episodes_without_end(path):
    vector = gymnasium.make_vec(REPLAY, num_envs=2, profile=path, max_episode_steps=-1)
    vector.reset(seed=0)
    assert not any(vector.step(np.zeros(2, dtype=int))[3].any() for _ in range(70))


def test_stable_baselines_own_way_of_making_environments_works(path):
    lanes = make_vec_env(REPLAY, n_envs=2, env_kwargs={"profile": path})
    assert lanes.reset().shape[0] == 2


def test_multipliers_are_given_by_number_or_by_task(path):
    reward = make(path, multipliers=3.0).unwrapped.world.reward
    assert {reward.multipliers[task] for task in reward.floors} == {3.0}
    default = make(path).unwrapped.world.reward.multipliers
    changed = make(path, multipliers={"choice": 9.0}).unwrapped.world.reward.multipliers
    assert changed["choice"] == 9.0
    assert changed["recall"] == default["recall"]


def test_a_floor_that_cannot_be_checked_is_refused(tmp_path):
    made.profile(tmp_path, generate_requests(4, seed=0), lambda r, d: float(r.task != "choice"))
    path = str(tmp_path / "profile.parquet")
    with pytest.raises(ConfigError, match="task 'choice': the floor cannot be checked"):
        make(path)
    assert make(path, floors={"choice": 0.0}).unwrapped.world.reward.floors["choice"] == 0.0


def test_both_splits_have_the_references_and_prices_of_the_training_prompts(path):
    train, held_out = (
        make(path, split=split, hold_out=0.4).unwrapped.world for split in ("train", "held_out")
    )
    assert train.reward == held_out.reward
    hashes = [{r.prompt_hash for r in world.backend.requests} for world in (train, held_out)]
    assert not hashes[0] & hashes[1]
    assert len(hashes[0]) + len(hashes[1]) == 32


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


def test_the_cost_can_be_an_element_of_the_step(path):
    env, wrapped = make(path), CostInStep(make(path), None)
    one_task = CostInStep(make(path), "choice")
    for each in (env, wrapped, one_task):
        each.reset(seed=1)
    for _ in range(8):
        *plain, info = env.step(1)
        observation, reward, cost, terminated, truncated, _ = wrapped.step(1)
        assert np.array_equal(observation, plain[0])
        assert [reward, terminated, truncated] == plain[1:]
        assert cost == info["cost"]
        assert one_task.step(1)[2] == info["costs"]["choice"]
    again = gymnasium.make(one_task.spec)
    again.reset(seed=1)
    assert len(again.step(1)) == 6
    with pytest.raises(ConfigError, match="constraint 'maths': give one of arithmetic, choice"):
        CostInStep(make(path), "maths")
    with pytest.raises(ConfigError, match="no environment of Sprout-RL"):
        CostInStep(gymnasium.make("CartPole-v1"), None)


def ppo_lagrangian(lanes, rounds=15):
    """Return a PPO policy, trained with a multiplier per floor that follows the floor's cost."""
    model = PPO(
        "MlpPolicy", lanes, n_steps=8, batch_size=256, gamma=0.0, learning_rate=3e-3, seed=0
    )
    for _ in range(rounds):
        lanes.seen.clear()
        model.learn(8 * lanes.num_envs)
        for task, cost in lanes.costs().items():
            lanes.multipliers[task] = max(0.0, lanes.multipliers[task] + cost)
    return model


class WithPenalties(VecEnvWrapper):
    """Subtracts each floor's cost, times its multiplier, from the reward."""

    def __init__(self, lanes):
        super().__init__(lanes)
        self.multipliers = dict.fromkeys(WORTH, 4.0)
        self.seen = []

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        observations, rewards, done, infos = self.venv.step_wait()
        self.seen += [(info["task"], info["cost"], info["action"]) for info in infos]
        penalties = [self.multipliers[info["task"]] * info["cost"] for info in infos]
        return observations, rewards - np.array(penalties), done, infos

    def costs(self):
        return {task: np.mean([c for t, c, _ in self.seen if t == task]) for task in WORTH}


# For each task another directive is the briefest that keeps the floor.
WORTH = {
    "arithmetic": {"none": 1.0, "brief": 0.5, "very_brief": 0.0},
    "choice": {"none": 1.0, "brief": 0.95, "very_brief": 0.3},
    "recall": {"none": 1.0, "brief": 1.0, "very_brief": 1.0},
    "sequence": {"none": 1.0, "brief": 0.95, "very_brief": 0.3},
}


def test_an_algorithm_of_constrained_rl_keeps_the_floors_where_greed_breaks_them(tmp_path):
    made.profile(tmp_path, generate_requests(8, seed=0), lambda r, d: WORTH[r.task][d])

    vector = gymnasium.make_vec(
        REPLAY,
        num_envs=128,
        profile=tmp_path / "profile.parquet",
        floor=FLOOR,
        reward_mode="footprint",
    )
    lanes = WithPenalties(Lanes(vector))
    lanes.reset()
    # The reward is the footprint alone, so greed is very brief.
    lanes.step(np.full(128, 2))
    assert max(lanes.costs().values()) > 0.5
    model = ppo_lagrangian(lanes)
    lanes.seen.clear()
    evaluate_policy(model, lanes, n_eval_episodes=128, warn=False)
    assert max(lanes.costs().values()) < 0.01
    # L0 everywhere would keep the floors, too.
    assert np.mean([action == 0 for *_, action in lanes.seen]) < 0.6


def test_maskable_ppo_trains_on_the_lanes_and_obeys_their_masks(tmp_path):
    kinds = {"free": "What is {n}?", "bound": "Explain {n} in two sentences."}
    made.profile(tmp_path, made.chats(20, kinds), lambda r, d: 1.0)
    vector = gymnasium.make_vec(REPLAY, num_envs=16, profile=tmp_path / "profile.parquet")
    lanes = Lanes(vector)
    model = MaskablePPO("MlpPolicy", lanes, n_steps=8, batch_size=64, gamma=0.0, seed=0)
    model.learn(256)
    observations = lanes.reset()
    masks = get_action_masks(lanes)
    assert masks.shape == (16, 3)
    assert 0 < masks[:, 1].sum() < 16
    actions, _ = model.predict(observations, action_masks=masks)
    assert masks[np.arange(16), actions].all()


def test_lanes_look_like_environments_of_their_own(path):
    vector = gymnasium.make_vec(REPLAY, num_envs=3, profile=path, floor=FLOOR)
    twin = gymnasium.make_vec(REPLAY, num_envs=3, profile=path, floor=FLOOR)
    lanes = Lanes(vector)
    lanes.seed(1)
    lanes.reset()
    twin.reset(seed=np.random.SeedSequence(1).generate_state(3).tolist())
    actions = np.array([0, 1, 2])
    infos, info = lanes.step(actions)[-1], twin.step(actions)[-1]
    for lane, own in enumerate(infos):
        assert own["task"] == info["task"][lane]
        assert own["cost"] == info["cost"][lane]
        assert own["terms"] == {name: values[lane] for name, values in info["terms"].items()}
        assert "preference" not in own
    assert lanes.env_method("action_masks", indices=[2])[0].shape == (3,)
    assert lanes.get_attr("num_envs", indices=0) == [3]
    assert lanes.env_is_wrapped(gymnasium.Wrapper, indices=[0, 1]) == [False, False]
    with pytest.raises(ValueError, match="share one environment"):
        lanes.set_attr("name", 1, indices=0)
    several = gymnasium.make_vec(REPLAY, num_envs=2, vectorization_mode="sync", profile=path)
    with pytest.raises(ConfigError, match="leave out vectorization_mode"):
        Lanes(several)


def test_minari_collects_episodes_and_gives_them_back(path, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    env = minari.DataCollector(
        gymnasium.make(REPLAY, profile=path, max_episode_steps=5), data_format="arrow"
    )
    for episode in range(2):
        env.reset(seed=episode)
        for step in range(5):
            env.step(step % 3)
    dataset = env.create_dataset("sprout/test-v0", algorithm_name="turns")
    assert dataset.total_episodes == 2
    assert [list(e.actions) for e in dataset.iterate_episodes()] == [[0, 1, 2, 0, 1]] * 2
    again = minari.load_dataset("sprout/test-v0").recover_environment()
    assert again.spec.max_episode_steps == 5
    first = next(iter(dataset.iterate_episodes())).observations[0]
    assert np.array_equal(again.reset(seed=0)[0], first)
