from dataclasses import replace

import numpy as np
import pytest

from agents.policy.bundle import load_bundle
from agents.training import ppo
from agents.training.config import PpoConfig
from envs.carbon.csv_traces import synthetic_day
from envs.errors import ConfigError, DataError
from envs.requests.directive import DEFAULT_CATALOGUE
from envs.requests.projection import EncodedProjection
from envs.requests.workload import generate_requests
from envs.upstream import Upstream
from experiments.cli import main
from experiments.llama.server import EMBEDDED
from experiments.tracking import NullRun
from experiments.train.continuing import continuing
from experiments.train.job import TrainingJob
from experiments.train.live_requests import live_requests
from tests import made

KINDS = {"lookup": "What is item {n}?", "proof": "Explain why {n} is so. Show all steps."}
FLOORS = dict.fromkeys(KINDS, 0.95)


@pytest.fixture
def profile(tmp_path):
    return made.profile(tmp_path, made.chats(30, KINDS), lambda r, d: 1.0)


def test_training_without_a_server_writes_a_bundle(profile, tmp_path):
    config = PpoConfig(replay_steps=2_000)
    job = TrainingJob(profile, DEFAULT_CATALOGUE, synthetic_day(), FLOORS, config)
    bundle, trained = job.run(tmp_path / "bundle", NullRun())
    assert bundle.manifest["live"] == {}
    assert bundle.prompt_hashes == {request.prompt_hash for request in profile.requests}
    assert trained.steps >= 2_000


def test_a_live_server_for_tasks_we_cannot_judge_is_refused_at_once(tmp_path):
    # A replay of this length would outlast the test's own limit.
    config = PpoConfig(replay_steps=10**9)
    silent = [replace(request, reference=None) for request in made.chats(30, KINDS)]
    profile = made.profile(tmp_path, silent, lambda r, d: 1.0)
    job = TrainingJob(profile, DEFAULT_CATALOGUE, synthetic_day(), FLOORS, config)
    with pytest.raises(ConfigError, match="'lookup': its requests in the profile have no ref"):
        job.run(tmp_path / "bundle", NullRun(), Upstream("http://127.0.0.1:9"))


def test_tasks_of_ones_own_go_on_live_with_the_profiles_requests(profile, tmp_path, llama):
    config = PpoConfig(replay_steps=4_096, live_steps=64)
    job = TrainingJob(profile, DEFAULT_CATALOGUE, synthetic_day(), FLOORS, config)
    with Upstream(llama.url, llama.model) as upstream:
        bundle, trained = job.run(tmp_path / "bundle", NullRun(), upstream)
    live = bundle.manifest["live"]
    assert trained.steps == 4_096 + 128
    assert live["requests"] == 128
    assert set(live["prompt_hashes"]) <= {request.prompt_hash for request in profile.requests}
    assert {row["task"] for row in live["drift"]} == set(KINDS)


def test_a_task_that_can_be_generated_is_asked_afresh(tmp_path):
    known = generate_requests(10, seed=0) + made.chats(30, KINDS)
    profile = made.profile(tmp_path, known, lambda r, d: 1.0)
    old = {request.prompt_hash for request in profile.requests}
    asked = live_requests(profile, 60, 1, old)
    for task in profile.tasks:
        mine = {request.prompt_hash for request in asked if request.task == task}
        assert len(mine) == 10
        assert mine <= old if task in KINDS else not mine & old


def curve(tracker):
    return [(step, figures["validation/grams_ratio"]) for step, figures in tracker.rows]


class Kept(NullRun):
    def __init__(self):
        self.rows = []

    def log(self, figures, step):
        self.rows.append((step, dict(figures)))


def test_a_training_goes_on_from_its_checkpoint(profile, tmp_path, monkeypatch):
    monkeypatch.setattr(ppo, "CHECKPOINT_ROLLOUTS", 2)
    config = PpoConfig(replay_steps=40_960)
    job = TrainingJob(profile, DEFAULT_CATALOGUE, synthetic_day(), FLOORS, config)

    class Stopped(Kept):
        def log(self, figures, step):
            super().log(figures, step)
            if step >= 20_480:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.run(tmp_path / "bundle", Stopped())
    tracker = Kept()
    _, trained = job.run(tmp_path / "bundle", tracker, resume=True)
    # Checkpoints are written every second update of 4,096 steps.
    assert curve(tracker)[0][0] == 16_384 + 4_096
    assert trained.steps == 40_960
    whole = Kept()
    job.run(tmp_path / "other", whole)
    # The first part was learned: no fall back to the untrained policy's footprint.
    assert curve(tracker)[0][1] == pytest.approx(curve(whole)[4][1], abs=0.1)


def test_a_checkpoint_of_another_training_is_refused(profile, tmp_path, monkeypatch):
    monkeypatch.setattr(ppo, "CHECKPOINT_ROLLOUTS", 1)
    trace = synthetic_day()
    first = TrainingJob(profile, DEFAULT_CATALOGUE, trace, FLOORS, PpoConfig(replay_steps=4096))
    with pytest.raises(DataError, match="no checkpoint"):
        first.run(tmp_path / "bundle", NullRun(), resume=True)
    first.run(tmp_path / "bundle", NullRun())
    other = TrainingJob(
        profile, DEFAULT_CATALOGUE, trace, dict.fromkeys(KINDS, 0.5), PpoConfig(replay_steps=4096)
    )
    with pytest.raises(DataError, match="its floors is"):
        other.run(tmp_path / "bundle", NullRun(), resume=True)
    (tmp_path / "bundle/checkpoint/best.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match="damaged"):
        first.run(tmp_path / "bundle", NullRun(), resume=True)


def test_patience_stops_a_training_that_gets_no_better(profile, tmp_path):
    config = PpoConfig(replay_steps=4_000_000, patience=3)
    job = TrainingJob(profile, DEFAULT_CATALOGUE, synthetic_day(), FLOORS, config)
    _, trained = job.run(tmp_path / "bundle", NullRun())
    assert trained.steps < 4_000_000


@pytest.fixture
def finished(profile, tmp_path):
    config = PpoConfig(replay_steps=20_480)
    job = TrainingJob(profile, DEFAULT_CATALOGUE, synthetic_day(), FLOORS, config)
    return job.run(tmp_path / "finished", NullRun())[0]


def train(*arguments):
    return main(["train", *map(str, arguments)])


def test_a_bundle_gone_on_from_starts_where_it_ended(profile, finished, tmp_path):
    job = continuing(tmp_path / "finished", profile, DEFAULT_CATALOGUE, synthetic_day(), {})
    assert job.floors == FLOORS
    bundle, trained = job.run(tmp_path / "again", NullRun())
    # No server, so nothing was learned: the very same policy, with its record.
    assert trained.policy.layers[0][0] == pytest.approx(finished.policy.layers[0][0])
    assert trained.multipliers == finished.manifest["multipliers"]
    assert bundle.manifest["continues"] == finished.version
    assert bundle.manifest["training"] == finished.manifest["training"]


def test_learning_values_leaves_the_policy_alone(profile, finished):
    trainer = ppo.Trainer(profile, synthetic_day(), FLOORS, PpoConfig(), Kept())
    trainer.start_from(finished.policy, finished.manifest["multipliers"])
    after = trainer.result().policy
    for (weight, bias), (own, its) in zip(after.layers, finished.policy.layers, strict=True):
        assert np.array_equal(weight, own)
        assert np.array_equal(bias, its)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ([], "--from goes on on a live server: give --upstream"),
        (["--upstream", "http://127.0.0.1:9", "--floor", "0.9"], "--floor: with --from it is"),
        (["--upstream", "http://127.0.0.1:9", "--hidden", "8"], "--hidden: with --from it is"),
        (["--upstream", "http://127.0.0.1:9", "--live-steps", "0"], "and --live-steps"),
        (["--upstream", "http://127.0.0.1:9", "--hold-out", "0.5"], "another profile"),
    ],
)
def test_what_contradicts_the_bundle_is_refused(
    flags, problem, profile, finished, tmp_path, capsys
):
    given = ["--outcomes", tmp_path / "profile.parquet", "--out", tmp_path / "next"]
    assert train(*given, "--from", tmp_path / "finished", *flags) == 2
    assert problem in capsys.readouterr().err


def test_a_bundle_goes_on_in_its_own_grid_only(profile, finished, tmp_path):
    trace = synthetic_day()
    other = replace(trace, g_per_kwh=trace.g_per_kwh + 1)
    with pytest.raises(ConfigError, match="trained on other hours"):
        continuing(tmp_path / "finished", profile, DEFAULT_CATALOGUE, other, {})


def test_only_what_train_made_can_be_gone_on_from(profile, tmp_path):
    made.bundle(tmp_path / "made")
    with pytest.raises(ConfigError, match="give a bundle of `sprout train`"):
        continuing(tmp_path / "made", profile, DEFAULT_CATALOGUE, synthetic_day(), {})


def test_live_training_needs_what_live_answers_have(profile, tmp_path):
    judged = profile.with_quality("preference", profile.outcomes.correct)
    config = PpoConfig(replay_steps=10**9)
    job = TrainingJob(
        judged, DEFAULT_CATALOGUE, synthetic_day(), FLOORS, config, quality="preference"
    )
    with pytest.raises(ConfigError, match="live answers have no preference"):
        job.run(tmp_path / "bundle", NullRun(), Upstream("http://127.0.0.1:9"))


def test_hyperparameters_are_flags(profile, tmp_path):
    given = ["--outcomes", tmp_path / "profile.parquet", "--out", tmp_path / "small"]
    given += ["--replay-steps", 4096, "--hidden", 8, "--learning-rate", 0.001, "--entropy", 0]
    assert train(*given) == 0
    manifest = load_bundle(tmp_path / "small").manifest
    assert manifest["network"]["shapes"][0][0] == 8
    assert manifest["training"]["learning_rate"] == 0.001


def test_an_encoder_comes_with_the_bundle_and_goes_on_with_it(profile, tmp_path):
    given = ["--outcomes", tmp_path / "profile.parquet", "--out", tmp_path / "read"]
    assert train(*given, "--replay-steps", 4096, "--encoder", EMBEDDED) == 0
    bundle = load_bundle(tmp_path / "read")
    assert isinstance(bundle.featurizer.text, EncodedProjection)
    job = continuing(tmp_path / "read", profile, DEFAULT_CATALOGUE, synthetic_day(), {})
    assert job.vectors is not None
    assert job.vectors.width == bundle.featurizer.text.weights.shape[0]
