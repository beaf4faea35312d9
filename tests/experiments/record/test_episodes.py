"""Recorded episodes load in Minari, repeat in the environment and carry their propensities."""

import gymnasium
import minari
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agents.policy.bundle import load_bundle
from envs.carbon.csv_traces import synthetic_day
from envs.requests.directive import DEFAULT_CATALOGUE
from envs.requests.workload import generate_requests
from experiments.cli import main
from experiments.record.episodes import played
from experiments.tracking import NullRun
from experiments.train.job import TrainingJob
from tests import made

NAME = "sprout/test/random-v0"


@pytest.fixture
def profile(tmp_path):
    requests = generate_requests(10, seed=0) + made.chats(
        10, {"bound": "Explain {n} in two sentences."}
    )
    return made.profile(tmp_path, requests, lambda r, d: float(d != "very_brief"))


def record(folder, *flags):
    flags = ("--outcomes", str(folder / "profile.parquet"), "--dataset", NAME, *flags)
    return main(["episodes", *flags, "--out", str(folder / "datasets")])


def load(folder, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "datasets"))
    return minari.load_dataset(NAME)


def test_an_episode_repeats_in_the_environment_that_minari_makes_again(
    profile, tmp_path, monkeypatch
):
    assert record(tmp_path, "--episodes", "4", "--steps", "20", "--seed", "7") == 0
    dataset = load(tmp_path, monkeypatch)
    assert (dataset.total_episodes, dataset.total_steps) == (4, 80)
    env = dataset.recover_environment()
    for episode in dataset.iterate_episodes():
        observation, _ = env.reset(seed=7 + int(episode.id))
        for step, action in enumerate(episode.actions):
            assert np.array_equal(observation, episode.observations[step])
            observation, reward, _, truncated, info = env.step(action)
            assert reward == episode.rewards[step]
            assert truncated == episode.truncations[step]
            assert info["cost"] == episode.infos["cost"][step + 1]
        assert np.array_equal(observation, episode.observations[-1])


def test_without_a_policy_every_allowed_directive_is_equally_likely(profile, tmp_path, monkeypatch):
    record(tmp_path, "--episodes", "30")
    episodes = list(load(tmp_path, monkeypatch).iterate_episodes())
    actions = np.concatenate([episode.actions for episode in episodes])
    chances = np.concatenate([episode.infos["propensity"][1:] for episode in episodes])
    assert set(actions[chances == 1.0]) == {0}
    assert set(chances) == {1.0, 1 / 3}
    shares = np.bincount(actions[chances < 1], minlength=3) / (chances < 1).sum()
    assert np.abs(shares - 1 / 3).max() < 0.06


def test_with_a_policy_its_probabilities_are_the_propensities(profile, tmp_path, monkeypatch):
    floors = dict.fromkeys(profile.tasks, 0.9)
    job = TrainingJob(profile, DEFAULT_CATALOGUE, synthetic_day(), floors, made.quick())
    job.run(tmp_path / "bundle", NullRun())
    assert record(tmp_path, "--policy", str(tmp_path / "bundle"), "--episodes", "5") == 0
    policy = load_bundle(tmp_path / "bundle").policy
    for episode in load(tmp_path, monkeypatch).iterate_episodes():
        chances = episode.infos["propensity"][1:]
        expected = policy.probabilities(episode.observations[:-1])
        own = expected[np.arange(len(chances)), episode.actions]
        assert np.allclose(np.where(chances == 1.0, 1.0, own), chances)


def test_the_first_action_does_not_depend_on_the_hour_that_was_drawn(
    profile, tmp_path, monkeypatch
):
    """The first lane's generator draws the hour; the actions need one of their own."""
    vector = gymnasium.make_vec(
        "sprout/Llama2Replay-v0", num_envs=1, profile=profile, max_episode_steps=1
    )
    hour = vector.unwrapped.world.featurizer.names.index("hour_sin")
    first = [played(vector, None, seed)[0] for seed in range(400)]
    afternoon = np.array([episode["observations"][0, hour] < 0 for episode in first])
    actions = np.array([episode["actions"][0] for episode in first])
    for half in (afternoon, ~afternoon):
        assert np.bincount(actions[half], minlength=3).min() > 0.2 * half.sum()


def test_a_floor_of_0_is_recorded(profile, tmp_path, monkeypatch):
    record(tmp_path, "--episodes", "1", "--floor", "0")
    env = load(tmp_path, monkeypatch).recover_environment()
    assert set(env.unwrapped.world.reward.floors.values()) == {0.0}


def test_one_model_of_a_profile_can_be_recorded(profile, tmp_path, monkeypatch, capsys):
    path = tmp_path / "profile.parquet"
    rows = pq.read_table(path)
    column = rows.schema.get_field_index("model")
    others = rows.set_column(column, rows.field("model"), pa.array(["other"] * len(rows)))
    pq.write_table(pa.concat_tables([rows, others]), path)
    assert record(tmp_path, "--episodes", "1") == 2
    assert "name one of them" in capsys.readouterr().err
    assert record(tmp_path, "--episodes", "1", "--model", "other") == 0
    assert len(load(tmp_path, monkeypatch)) == 1


def test_wrong_names_and_flags_are_refused_in_one_line(profile, tmp_path, capsys):
    assert record(tmp_path, "--episodes", "1") == 0
    assert record(tmp_path, "--episodes", "1") == 2
    assert f"sprout: --dataset {NAME}: there is such a dataset" in capsys.readouterr().err
    for name in ("foo", "a b/c-v0", "../x-v0", "x-v"):
        assert record(tmp_path, "--dataset", name) == 2
        assert f"--dataset {name}: give NAMESPACE/NAME-vNUMBER" in capsys.readouterr().err
    assert record(tmp_path, "--policy", "b", "--dataset", "a-v1", "--floor", "0.9") == 2
    assert "--floor: with --policy the bundle fixes it" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "datasets").iterdir()] == ["sprout"]
