import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO

from agents.policy.bundle import load_bundle
from agents.policy.checkpoint import read_policy
from agents.training.sb3 import Lanes, Normaliser
from envs.errors import DataError
from envs.llama2 import Llama2VectorEnv
from envs.registration import replay_world
from envs.requests.workload import generate_requests
from experiments.cli import main
from tests import made


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def profile(tmp_path):
    return made.profile(tmp_path, generate_requests(10, seed=0), lambda r, d: 1.0)


def trained(profile, algorithm=PPO, **policy):
    lanes = Lanes(Llama2VectorEnv(replay_world(profile, lanes=8)), gamma=0.0)
    model = algorithm("MlpPolicy", lanes, n_steps=8, device="cpu", seed=0, policy_kwargs=policy)
    return model.learn(128)


def observations(profile, count=10_000):
    world = replay_world(profile, lanes=1000)
    return np.concatenate([world.reset(seed=1000 * i) for i in range(count // 1000)])


def sb3_probabilities(model, observed):
    with torch.no_grad():
        return model.policy.get_distribution(torch.as_tensor(observed)).distribution.probs.numpy()


@pytest.mark.parametrize(
    ("algorithm", "policy"),
    [
        (PPO, {}),
        (A2C, {"net_arch": [16]}),
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
    width = len(replay_world(profile).featurizer.names)
    rng = np.random.default_rng(0)
    numbers = {"mean": rng.normal(size=width), "scale": rng.uniform(size=width)}
    model = trained(
        profile,
        features_extractor_class=Normaliser,
        features_extractor_kwargs={k: v.astype(np.float32) for k, v in numbers.items()},
    )
    model.save(tmp_path / "own.zip")
    observed = observations(profile, 1000)
    policy = read_policy(tmp_path / "own.zip")
    assert np.abs(policy.probabilities(observed) - sb3_probabilities(model, observed)).max() < 1e-5


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
    assert read_policy(tmp_path / "bomb.zip").layers[0][0].shape[0] == 64
    # A pickle in place of the weights is refused.
    for weights in (bomb, _saved(Bomb())):
        rewritten(tmp_path / "own.zip", tmp_path / "bomb.zip", **{"policy.pth": weights})
        with pytest.raises(DataError, match="cannot be read as weights"):
            read_policy(tmp_path / "bomb.zip")


def _saved(thing):
    stream = io.BytesIO()
    torch.save(thing, stream)
    return stream.getvalue()


def test_a_file_that_is_no_checkpoint_is_named_in_the_error(profile, tmp_path, capsys):
    (tmp_path / "x.zip").write_bytes(b"PK no")
    with pytest.raises(DataError, match=r"x\.zip: cannot be read as weights"):
        read_policy(tmp_path / "x.zip")
    trained(profile).save(tmp_path / "own.zip")
    rewritten(tmp_path / "own.zip", tmp_path / "y.zip", **{"policy.pth": b""})
    with pytest.raises(DataError, match=r"y\.zip: holds no policy\.pth"):
        read_policy(tmp_path / "y.zip")
    # A profile with fewer tasks has a shorter observation.
    fewer = [request for request in generate_requests(10, seed=0) if request.task == "recall"]
    made.profile(tmp_path, fewer, lambda r, d: 1.0)
    command = ["bundle", "from-sb3", str(tmp_path / "own.zip"), "--out", str(tmp_path / "b")]
    assert main([*command, "--outcomes", str(tmp_path / "profile.parquet")]) == 2
    assert "observed components" in capsys.readouterr().err
