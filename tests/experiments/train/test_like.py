"""The environment of `like=BUNDLE` is the problem that the bundle was trained on."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import PPO

import envs.registration  # noqa: F401, registers the environments
from agents.policy.bundle import load_bundle
from agents.training.ppo import Trainer
from agents.training.sb3 import Lanes
from envs.carbon.csv_traces import chosen_trace, synthetic_day
from envs.errors import ConfigError
from envs.outcomes.floors import BANDS, floor_schedule
from envs.outcomes.limits import Limit
from envs.requests.directive import DEFAULT_CATALOGUE
from envs.requests.workload import generate_requests
from experiments.cli import main
from experiments.tracking import NullRun
from experiments.train.job import TrainingJob
from tests import made
from tests.experiments.evaluate.test_evaluate import write_trace

REPLAY, LIVE = "sprout/Llama2Replay-v0", "sprout/Llama2Live-v0"
CONFIG = made.quick(live_steps=0, seed=4)


def worth(request, directive):
    """Return verdicts that differ from prompt to prompt, so that predictions differ from them."""
    shares = {"none": 10, "brief": 8, "very_brief": 3}
    return float(int(request.prompt_hash[:4], 16) % 10 < shares[directive])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("like")


@pytest.fixture(scope="module")
def profile(folder):
    return made.profile(folder, generate_requests(40, seed=0), worth)


@pytest.fixture(scope="module")
def trained(folder, profile):
    """Return the training prompts of a bundle that left out the others, and the bundle."""
    prompts, _ = profile.split(0.3, "hold-out")
    floors = {"arithmetic": 0.9, "choice": 0.8, "recall": 0.7, "sequence": 0.6}
    job = TrainingJob(prompts, DEFAULT_CATALOGUE, synthetic_day(), floors, CONFIG)
    bundle, _ = job.run(folder / "bundle", NullRun())
    return prompts, bundle


def make(folder, **arguments):
    return gymnasium.make_vec(
        REPLAY,
        num_envs=256,
        profile=str(folder / "profile.parquet"),
        like=str(folder / "bundle"),
        **arguments,
    )


def test_a_training_prompt_has_the_features_and_the_reward_of_the_training(folder, trained):
    prompts, bundle = trained
    trainer = Trainer(prompts, synthetic_day(), dict(bundle.manifest["floors"]), CONFIG, NullRun())
    trainer.reward.set_multipliers(bundle.manifest["multipliers"])
    ours, theirs = make(folder), trainer._replay_world()
    world = ours.unwrapped.world
    assert world.reward.floors == bundle.manifest["floors"]
    # The training draws prices; `like` has those of the bundle's floors.
    theirs._price_range = None
    seeds = list(range(CONFIG.lanes))
    theirs.reset(seeds)
    first = world.reset(seeds[:256])
    lanes = theirs._observe()[:256]
    # The trainer hides the forecast in the network, `like` in the observation.
    lanes[:, bundle.featurizer.groups["forecast"]] = 0
    assert np.allclose(first, lanes)
    actions = np.arange(CONFIG.lanes) % 3
    assert np.allclose(world.step(actions[:256]).rewards, theirs.step(actions).rewards[:256])
    assert ours.single_observation_space.shape == bundle.policy.mean.shape


def test_other_prompts_have_the_outcomes_that_were_measured(folder, profile, trained):
    prompts, _ = trained
    env = make(folder, split="held_out")
    env.reset(seed=0)
    requests = env.unwrapped.world.backend.requests
    assert {r.prompt_hash for r in requests}.isdisjoint(r.prompt_hash for r in prompts.requests)
    assert len(requests) + len(prompts.requests) == len(profile.requests)
    info = env.step(np.full(256, 1))[-1]
    for row, correct in zip(info["row"], info["correct"], strict=True):
        assert correct == worth(requests[row], "brief")


def test_multipliers_can_be_changed_and_nothing_else_of_the_bundles_problem(folder, trained):
    _, bundle = trained
    env = make(folder, multipliers={"arithmetic": 7.0})
    multipliers = env.unwrapped.world.reward.multipliers
    changed = {"arithmetic": 7.0, "arithmetic (untagged)": 7.0}
    assert multipliers == {**bundle.manifest["multipliers"], **changed}
    with pytest.raises(ConfigError, match="quality: the bundle given as `like` fixes it"):
        make(folder, quality="correct")
    with pytest.raises(ConfigError, match="give split 'train' or 'held_out'"):
        make(folder, split="all")


def test_a_bundle_of_another_profile_or_of_no_training_is_refused(folder, trained, tmp_path):
    made.profile(tmp_path, generate_requests(40, seed=1), worth)
    with pytest.raises(ConfigError, match="trained on another profile"):
        gymnasium.make(REPLAY, profile=tmp_path / "profile.parquet", like=folder / "bundle")
    made.bundle(tmp_path / "no-training")
    with pytest.raises(ConfigError, match="give a bundle of `sprout train`"):
        gymnasium.make(REPLAY, profile=folder / "profile.parquet", like=tmp_path / "no-training")


@pytest.fixture(scope="module")
def two_zones(folder, profile):
    """Return the folder of two zones' intensities, with a bundle trained on both in it."""
    traces = folder / "traces"
    traces.mkdir()
    for zone in ("X", "Y"):
        write_trace(traces / f"{zone}.csv", zone)
    job = TrainingJob(
        profile,
        DEFAULT_CATALOGUE,
        chosen_trace([traces], None),
        dict.fromkeys(profile.tasks, 0.5),
        # Few prices: each is measured for each zone, band, tag and price of latency.
        replace(CONFIG, floor_slack=0.2, price_range=(1.0, 3.0)),
        limits={"choice": Limit(mean_seconds=9.0)},
    )
    job.run(folder / "two-zones", NullRun())
    return traces


def test_zones_bands_and_limits_are_those_of_the_training(folder, two_zones):
    def make(**arguments):
        return gymnasium.make(
            REPLAY,
            profile=folder / "profile.parquet",
            like=folder / "two-zones",
            **arguments,
        ).unwrapped.world.reward

    reward = make(intensity=two_zones)
    manifest = load_bundle(folder / "two-zones").manifest
    assert reward.multipliers | reward.latency_prices == manifest["multipliers"]
    assert reward.floor_schedule == floor_schedule(chosen_trace([two_zones], None), 0.2)
    assert set(reward.latency_prices) == {"choice mean"}
    # A task's name stands for all its constraints, a number for all floors; limits are apart.
    changed = make(intensity=two_zones, multipliers={"choice": 5.0})
    assert {n for n, price in changed.multipliers.items() if price == 5.0} == {
        f"choice, {band}{tag}" for band in BANDS for tag in ("", " (untagged)")
    }
    everywhere = make(intensity=two_zones, multipliers=5.0)
    assert set(everywhere.multipliers.values()) == {5.0}
    assert everywhere.latency_prices == reward.latency_prices
    for other in ({}, {"intensity": two_zones, "zone": "X"}):
        with pytest.raises(ConfigError, match="trained on other hours"):
            make(**other)


def test_a_bundle_from_a_checkpoint_has_the_problem_of_the_bundle_that_it_is_like(folder, trained):
    lanes = Lanes(make(folder))
    PPO("MlpPolicy", lanes, n_steps=4, batch_size=64, gamma=0.0).learn(1024).save(folder / "own")
    command = ["bundle", "from-sb3", str(folder / "own.zip"), "--out", str(folder / "converted")]
    assert main([*command, "--like", str(folder / "bundle")]) == 0
    original, converted = (
        gymnasium.make(REPLAY, profile=folder / "profile.parquet", like=folder / name)
        for name in ("bundle", "converted")
    )
    assert original.unwrapped.world.reward == converted.unwrapped.world.reward
    assert np.array_equal(original.reset(seed=1)[0], converted.reset(seed=1)[0])
    # What the training hid is hidden in both environments, and from the converted policy.
    bundle = load_bundle(folder / "converted")
    forecast = bundle.featurizer.groups["forecast"]
    observations = np.stack([converted.step(1)[0] for _ in range(20)])
    assert not observations[:, forecast].any()
    seen = observations.copy()
    seen[:, forecast] = np.random.default_rng(0).random((20, 1))
    assert np.array_equal(
        bundle.policy.probabilities(seen), bundle.policy.probabilities(observations)
    )
    # Nothing is claimed of the floors that the converted policy keeps.
    assert "floors" not in load_bundle(folder / "converted").manifest


def test_a_live_environment_takes_a_bundles_features_and_references(folder, trained, llama):
    env = gymnasium.make(LIVE, upstream=llama.url, model=llama.model, like=folder / "bundle")
    bundle = load_bundle(folder / "bundle")
    observation, _ = env.reset(seed=0)
    assert observation.shape == bundle.policy.mean.shape
    reward = env.unwrapped.world.reward
    assert reward.footprint_ref_grams == bundle.manifest["footprint_ref_grams"]
    assert reward.multipliers == bundle.manifest["multipliers"]
    env.close()
