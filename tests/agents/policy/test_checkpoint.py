import io
import json
import pickle
import zipfile

import gymnasium
import numpy as np
import pytest
import torch
from sb3_contrib import TRPO, MaskablePPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents.policy.bundle import load_bundle
from agents.policy.checkpoint import read_checkpoint
from agents.policy.vec_normalize import read_normalisation
from agents.training.sb3 import Lanes, Normaliser
from envs.errors import DataError
from envs.llama2 import Llama2VectorEnv
from envs.problem.arguments import ReplayArguments
from envs.requests.workload import generate_requests
from envs.worlds import replay_world
from experiments.cli import main
from tests import made


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def profile(tmp_path):
    return made.profile(tmp_path, generate_requests(10, seed=0), lambda r, d: 1.0)


def trained(profile, algorithm=PPO, **policy):
    world = replay_world(ReplayArguments(profile=profile), lanes=8)
    lanes = Lanes(Llama2VectorEnv(world), infos=False)
    model = algorithm("MlpPolicy", lanes, n_steps=8, device="cpu", seed=0, policy_kwargs=policy)
    return model.learn(128)


def observations(profile, count=10_000):
    world = replay_world(ReplayArguments(profile=profile), lanes=1000)
    return np.concatenate([world.reset(seed=1000 * i) for i in range(count // 1000)])


def sb3_probabilities(model, observed):
    with torch.no_grad():
        return model.policy.get_distribution(torch.as_tensor(observed)).distribution.probs.numpy()


@pytest.mark.parametrize(
    ("algorithm", "policy"),
    [
        (PPO, {}),
        (A2C, {"net_arch": [16]}),
        (TRPO, {"net_arch": [16]}),
        (MaskablePPO, {}),
        (PPO, {"net_arch": {"pi": [24, 8], "vf": [4]}, "activation_fn": torch.nn.ReLU}),
    ],
)
def test_an_sb3_checkpoint_becomes_a_bundle_with_the_same_probabilities(
    profile, tmp_path, algorithm, policy
):
    model = trained(profile, algorithm, **policy)
    model.save(tmp_path / "own.zip")
    command = ["bundle", "from-sb3", str(tmp_path / "own.zip"), "--out", str(tmp_path / "b")]
    assert main([*command, "--outcomes", str(tmp_path / "profile.parquet")]) == 0
    bundle = load_bundle(tmp_path / "b")
    observed = observations(profile)
    assert (
        np.abs(bundle.policy.probabilities(observed) - sb3_probabilities(model, observed)).max()
        < 1e-5
    )
    assert bundle.prompt_hashes == {request.prompt_hash for request in profile.requests}


def test_a_normalised_policy_keeps_its_normaliser(profile, tmp_path):
    width = len(replay_world(ReplayArguments(profile=profile)).featurizer.names)
    rng = np.random.default_rng(0)
    numbers = {"mean": rng.normal(size=width), "scale": rng.uniform(size=width)}
    model = trained(
        profile,
        features_extractor_class=Normaliser,
        features_extractor_kwargs={k: v.astype(np.float32) for k, v in numbers.items()},
    )
    model.save(tmp_path / "own.zip")
    observed = observations(profile, 1000)
    policy = read_checkpoint(tmp_path / "own.zip").policy
    assert np.abs(policy.probabilities(observed) - sb3_probabilities(model, observed)).max() < 1e-5


@pytest.fixture
def normalised(profile, tmp_path):
    """A policy that was trained behind VecNormalize, saved with it as own.zip and norm.pkl."""
    world = replay_world(ReplayArguments(profile=profile), lanes=8)
    lanes = Lanes(Llama2VectorEnv(world), infos=False)
    around = VecNormalize(lanes, gamma=0.0, clip_obs=4.0)
    model = PPO("MlpPolicy", around, n_steps=8, device="cpu", seed=7, gamma=0.0).learn(512)
    model.save(tmp_path / "own.zip")
    around.save(tmp_path / "norm.pkl")
    return model, around


def test_a_policy_behind_vecnormalize_keeps_its_normalisation(profile, tmp_path, normalised):
    model, around = normalised
    command = ["bundle", "from-sb3", str(tmp_path / "own.zip"), "--out", str(tmp_path / "b")]
    command += ["--outcomes", str(tmp_path / "profile.parquet")]
    assert main([*command, "--vecnormalize", str(tmp_path / "norm.pkl")]) == 0
    bundle = load_bundle(tmp_path / "b")
    observed = observations(profile, 1000)
    expected = sb3_probabilities(model, around.normalize_obs(observed))
    assert np.abs(bundle.policy.probabilities(observed) - expected).max() < 1e-5
    training = bundle.manifest["training"]
    assert (training["algorithm"], training["seed"], training["gamma"]) == ("PPO", 7, 0.0)


def test_vecnormalize_is_neither_forgotten_nor_added(profile, tmp_path, normalised):
    with pytest.raises(DataError, match=r"give the file .* with --vecnormalize"):
        read_checkpoint(tmp_path / "own.zip")
    trained(profile).save(tmp_path / "plain.zip")
    with pytest.raises(DataError, match="leave out --vecnormalize"):
        read_checkpoint(tmp_path / "plain.zip", vecnormalize=tmp_path / "norm.pkl")
    other = VecNormalize(DummyVecEnv([lambda: gymnasium.make("CartPole-v1")]))
    other.save(tmp_path / "other.pkl")
    with pytest.raises(DataError, match="is for 4 observed components"):
        read_checkpoint(tmp_path / "own.zip", vecnormalize=tmp_path / "other.pkl")


def test_no_code_of_a_vecnormalize_file_is_run(tmp_path, normalised):
    _, around = normalised
    around.reward_range = Bomb()
    around.save(tmp_path / "bomb.pkl")
    with pytest.raises(SystemExit):
        pickle.loads((tmp_path / "bomb.pkl").read_bytes())
    loaded = read_normalisation(tmp_path / "bomb.pkl")
    assert np.allclose(loaded.mean, around.obs_rms.mean, atol=1e-5)
    for content in (pickle.dumps(Bomb()), b"no pickle", pickle.dumps({"norm_obs": True})):
        (tmp_path / "bomb.pkl").write_bytes(content)
        with pytest.raises(DataError, match="VecNormalize"):
            read_normalisation(tmp_path / "bomb.pkl")


def test_action_values_are_refused_with_the_reason(profile, tmp_path):
    cart = gymnasium.make("CartPole-v1")
    DQN("MlpPolicy", cart, device="cpu", gamma=0.0, buffer_size=10).save(tmp_path / "dqn.zip")
    with pytest.raises(DataError, match=r"holds action values \(DQN\)"):
        read_checkpoint(tmp_path / "dqn.zip")


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was loaded')",))


def rewritten(source, target, **members):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if members.get(name) != b"":
                new.writestr(name, members.get(name, old.read(name)))


def test_no_pickle_of_the_checkpoint_is_loaded(profile, tmp_path):
    model = trained(profile)
    model.save(tmp_path / "own.zip")
    bomb = pickle.dumps(Bomb())
    # A pickle in the description or in the optimiser's state is ignored.
    rewritten(
        tmp_path / "own.zip",
        tmp_path / "bomb.zip",
        **{"data": json.dumps({"x": bomb.hex()}).encode(), "policy.optimizer.pth": bomb},
    )
    assert read_checkpoint(tmp_path / "bomb.zip").policy.layers[0][0].shape[0] == 64
    # A pickle in place of the weights is refused.
    for weights in (bomb, _saved(Bomb())):
        rewritten(tmp_path / "own.zip", tmp_path / "bomb.zip", **{"policy.pth": weights})
        with pytest.raises(DataError, match="cannot be read as weights"):
            read_checkpoint(tmp_path / "bomb.zip")


def _saved(thing):
    stream = io.BytesIO()
    torch.save(thing, stream)
    return stream.getvalue()


def test_a_file_that_is_no_checkpoint_is_named_in_the_error(profile, tmp_path, capsys):
    (tmp_path / "x.zip").write_bytes(b"PK no")
    with pytest.raises(DataError, match=r"x\.zip: cannot be read as weights"):
        read_checkpoint(tmp_path / "x.zip")
    trained(profile).save(tmp_path / "own.zip")
    rewritten(tmp_path / "own.zip", tmp_path / "y.zip", **{"policy.pth": b""})
    with pytest.raises(DataError, match=r"y\.zip: holds no policy\.pth"):
        read_checkpoint(tmp_path / "y.zip")
    # A profile with fewer tasks has a shorter observation.
    fewer = [request for request in generate_requests(10, seed=0) if request.task == "recall"]
    made.profile(tmp_path, fewer, lambda r, d: 1.0)
    command = ["bundle", "from-sb3", str(tmp_path / "own.zip"), "--out", str(tmp_path / "b")]
    assert main([*command, "--outcomes", str(tmp_path / "profile.parquet")]) == 2
    assert "observed components" in capsys.readouterr().err
