from dataclasses import replace

import numpy as np
import pytest

from agents.policy.bundle import load_bundle
from agents.policy.bundle_files import sha256_of
from agents.training import ppo
from agents.training.config import PpoConfig
from envs.carbon.csv_traces import read_trace, synthetic_day
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
from tests.experiments.evaluate.test_evaluate import write_trace

KINDS = {"lookup": "What is item {n}?", "proof": "Explain why {n} is so. Show all steps."}
FLOORS = dict.fromkeys(KINDS, 0.95)


@pytest.fixture
def profile(tmp_path):
    return made.profile(tmp_path, made.chats(30, KINDS), lambda r, d: 1.0)


def test_training_without_a_server_writes_a_bundle(profile, tmp_path):
    config = made.quick(replay_steps=2_000)
    job = TrainingJob(profile, DEFAULT_CATALOGUE, synthetic_day(), FLOORS, config)
    bundle, trained = job.run(tmp_path / "bundle", NullRun())
    assert bundle.manifest["live"] == {}
    assert bundle.prompt_hashes == {request.prompt_hash for request in profile.requests}
    assert trained.steps >= 2_000


def test_the_manifest_names_every_input(profile, tmp_path):
    for zone in ("X", "Y"):
        (tmp_path / "traces").mkdir(exist_ok=True)
        write_trace(tmp_path / "traces" / f"{zone}.csv", zone)
    flags = ["--outcomes", str(tmp_path / "profile.parquet"), "--out", str(tmp_path / "bundle")]
    flags += ["--intensity", str(tmp_path / "traces"), "--hold-out", "0.2", "--seed", "5"]
    assert main(["train", *flags, "--replay-steps", "2000", "--start-batches", "5"]) == 0
    manifest = load_bundle(tmp_path / "bundle").manifest
    traces = manifest["intensity"]["traces"]
    assert [(trace["zone"], trace["source"]) for trace in traces] == [
        ("X", "X.csv"),
        ("Y", "Y.csv"),
    ]
    for trace in traces:
        assert trace["sha256"] == read_trace(tmp_path / "traces" / trace["source"]).sha256
    inputs = manifest["inputs"]
    assert inputs["outcomes_sha256"] == sha256_of(tmp_path / "profile.parquet")
    assert (inputs["outcomes"], inputs["hold_out"]) == ("profile.parquet", 0.2)
    assert "PPO" in inputs["algorithm"]
    assert (manifest["training"]["seed"], manifest["training"]["gamma"]) == (5, 0.0)


def test_live_training_on_tasks_without_references_is_refused_before_the_replay(tmp_path):
    # A replay of this length would exceed the test's timeout.
    config = PpoConfig(start_batches=10**6)
    unreferenced = [replace(request, reference=None) for request in made.chats(30, KINDS)]
    profile = made.profile(tmp_path, unreferenced, lambda r, d: 1.0)
    job = TrainingJob(profile, DEFAULT_CATALOGUE, synthetic_day(), FLOORS, config)
    with pytest.raises(ConfigError, match="'lookup': its requests in the profile have no ref"):
        job.run(tmp_path / "bundle", NullRun(), Upstream("http://127.0.0.1:9"))


def test_tasks_without_a_generator_continue_live_with_the_requests_of_the_profile(
    profile, tmp_path, llama
):
    config = made.quick(replay_steps=4_096, live_steps=64)
    job = TrainingJob(profile, DEFAULT_CATALOGUE, synthetic_day(), FLOORS, config)
    with Upstream(llama.url, llama.model) as upstream:
        bundle, trained = job.run(tmp_path / "bundle", NullRun(), upstream)
    live = bundle.manifest["live"]
    assert trained.steps == 4_096 + 128
    assert live["requests"] == 128
    assert set(live["prompt_hashes"]) <= {request.prompt_hash for request in profile.requests}
    assert {row["task"] for row in live["drift"]} == set(KINDS)


def test_live_requests_are_new_for_a_task_with_a_generator(tmp_path):
    profile_requests = generate_requests(10, seed=0) + made.chats(30, KINDS)
    profile = made.profile(tmp_path, profile_requests, lambda r, d: 1.0)
    profile_hashes = {request.prompt_hash for request in profile.requests}
    requests = live_requests(profile, 60, 1, profile_hashes)
    for task in profile.tasks:
        task_hashes = {request.prompt_hash for request in requests if request.task == task}
        assert len(task_hashes) == 10
        assert task_hashes <= profile_hashes if task in KINDS else not task_hashes & profile_hashes


def curve(tracker):
    return [(step, figures["reward/footprint"]) for step, figures in tracker.rows]


class Recording(NullRun):
    def __init__(self):
        self.rows = []

    def log(self, figures, step):
        self.rows.append((step, dict(figures)))


def test_a_resumed_training_continues_from_its_checkpoint(profile, tmp_path, monkeypatch):
    monkeypatch.setattr(ppo, "CHECKPOINT_ROLLOUTS", 2)
    config = made.quick(replay_steps=40_960, lanes=2048)
    job = TrainingJob(profile, DEFAULT_CATALOGUE, synthetic_day(), FLOORS, config)

    class Stopped(Recording):
        def log(self, figures, step):
            super().log(figures, step)
            if step >= 20_480:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.run(tmp_path / "bundle", Stopped())
    tracker = Recording()
    _, trained = job.run(tmp_path / "bundle", tracker, resume=True)
    # A checkpoint is written after every second update of 4,096 steps.
    assert curve(tracker)[0][0] == 16_384 + 4_096
    assert trained.steps == 40_960
    uninterrupted = Recording()
    job.run(tmp_path / "other", uninterrupted)
    # The resumed policy keeps what it learned: its footprint is not the untrained policy's.
    assert curve(tracker)[0][1] == pytest.approx(curve(uninterrupted)[4][1], rel=0.2)


def test_a_missing_foreign_or_damaged_checkpoint_is_refused(profile, tmp_path, monkeypatch):
    monkeypatch.setattr(ppo, "CHECKPOINT_ROLLOUTS", 1)
    trace = synthetic_day()
    first = TrainingJob(profile, DEFAULT_CATALOGUE, trace, FLOORS, made.quick(replay_steps=4096))
    with pytest.raises(DataError, match="no checkpoint"):
        first.run(tmp_path / "bundle", NullRun(), resume=True)
    first.run(tmp_path / "bundle", NullRun())
    other = TrainingJob(
        profile, DEFAULT_CATALOGUE, trace, dict.fromkeys(KINDS, 0.5), made.quick(replay_steps=4096)
    )
    with pytest.raises(DataError, match="its floors is"):
        other.run(tmp_path / "bundle", NullRun(), resume=True)
    (tmp_path / "bundle/checkpoint/average.pt").write_bytes(b"x")
    with pytest.raises(DataError, match="damaged"):
        first.run(tmp_path / "bundle", NullRun(), resume=True)


@pytest.fixture(scope="module")
def finished_folder(tmp_path_factory):
    """Folder with a profile and the bundle trained on it; tests only read it."""
    folder = tmp_path_factory.mktemp("finished")
    profile = made.profile(folder, made.chats(30, KINDS), lambda r, d: 1.0)
    config = made.quick(replay_steps=20_480)
    TrainingJob(profile, DEFAULT_CATALOGUE, synthetic_day(), FLOORS, config).run(
        folder / "bundle", NullRun()
    )
    return folder


@pytest.fixture
def finished(finished_folder):
    return load_bundle(finished_folder / "bundle")


def train(*arguments):
    return main(["train", *map(str, arguments)])


def test_a_continued_bundle_starts_with_its_policy_and_front(
    profile, finished, finished_folder, tmp_path
):
    job = continuing(finished_folder / "bundle", profile, DEFAULT_CATALOGUE, synthetic_day(), {})
    assert job.floors == FLOORS
    bundle, trained = job.run(tmp_path / "again", NullRun())
    # Nothing is learned without a server, so policy and training record are unchanged.
    assert trained.policy.layers[0][0] == pytest.approx(finished.policy.layers[0][0])
    assert trained.validation.prices == pytest.approx(finished.manifest["multipliers"])
    assert bundle.manifest["continues"] == finished.version
    assert bundle.manifest["training"] == finished.manifest["training"]


def test_learning_values_leaves_the_policy_unchanged(profile, finished):
    trainer = ppo.Trainer(profile, synthetic_day(), FLOORS, PpoConfig(), Recording())
    trainer.start_from(finished.policy)
    after = trainer.result().policy
    for (weight, bias), (old_weight, old_bias) in zip(
        after.layers, finished.policy.layers, strict=True
    ):
        assert np.allclose(weight, old_weight, rtol=1e-6)
        assert np.allclose(bias, old_bias, rtol=1e-6)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ([], "--from continues on a live server: give --upstream"),
        (["--upstream", "http://127.0.0.1:9", "--floor", "0.9"], "--floor: with --from the bundle"),
        (["--upstream", "http://127.0.0.1:9", "--hidden", "8"], "--hidden: with --from the bundle"),
        (["--upstream", "http://127.0.0.1:9", "--live-steps", "0"], "and --live-steps"),
        (["--upstream", "http://127.0.0.1:9", "--hold-out", "0.5"], "another profile"),
    ],
)
def test_a_flag_that_contradicts_the_continued_bundle_is_refused(
    flags, problem, finished_folder, tmp_path, capsys
):
    paths = ["--outcomes", finished_folder / "profile.parquet", "--out", tmp_path / "next"]
    assert train(*paths, "--from", finished_folder / "bundle", *flags) == 2
    assert problem in capsys.readouterr().err


def test_continuing_a_bundle_with_another_intensity_trace_is_refused(profile, finished_folder):
    trace = synthetic_day()
    other = replace(trace, g_per_kwh=trace.g_per_kwh + 1)
    with pytest.raises(ConfigError, match="trained on other hours"):
        continuing(finished_folder / "bundle", profile, DEFAULT_CATALOGUE, other, {})


def test_continuing_a_bundle_that_train_did_not_write_is_refused(profile, tmp_path):
    made.bundle(tmp_path / "made")
    with pytest.raises(ConfigError, match="give a bundle of `sprout train`"):
        continuing(tmp_path / "made", profile, DEFAULT_CATALOGUE, synthetic_day(), {})


def test_live_training_for_a_quality_that_live_answers_lack_is_refused(profile, tmp_path):
    judged = profile.with_quality("preference", profile.outcomes.correct)
    config = PpoConfig(start_batches=10**6)
    job = TrainingJob(
        judged, DEFAULT_CATALOGUE, synthetic_day(), FLOORS, config, quality="preference"
    )
    with pytest.raises(ConfigError, match="live answers have no preference"):
        job.run(tmp_path / "bundle", NullRun(), Upstream("http://127.0.0.1:9"))


def test_hyperparameter_flags_reach_the_trained_bundle(profile, tmp_path):
    flags = ["--outcomes", tmp_path / "profile.parquet", "--out", tmp_path / "small"]
    flags += [
        "--replay-steps",
        4096,
        "--start-batches",
        5,
        "--hidden",
        8,
        "--learning-rate",
        0.001,
        "--entropy",
        0,
    ]
    assert train(*flags) == 0
    manifest = load_bundle(tmp_path / "small").manifest
    assert manifest["network"]["shapes"][0][0] == 8
    assert manifest["training"]["learning_rate"] == 0.001


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--weights", "grams=1,hope=2"], "no cost 'hope'"),
        (["--weights", "grams"], "--weights grams: give NAME=NUMBER"),
        (["--weights", "grams=0"], "not all 0"),
        (["--weights", "grams=-1"], "numbers of 0 or more"),
        (["--tariff", "tariff.yaml"], "--tariff: money has no weight"),
        (["--weights", "money=1", "--tariff", "none.yaml"], "none.yaml"),
        (["--price-range", "[2,1]"], "price_range (2.0, 1.0)"),
    ],
)
def test_a_wrong_objective_is_refused(flags, problem, profile, tmp_path, capsys):
    paths = ["--outcomes", tmp_path / "profile.parquet", "--out", tmp_path / "wrong"]
    assert train(*paths, "--start-batches", 5, "--replay-steps", 0, *flags) == 2
    assert problem in capsys.readouterr().err


def test_the_weights_of_grams_seconds_and_money_are_part_of_the_bundle(profile, tmp_path):
    paths = ["--outcomes", tmp_path / "profile.parquet", "--out", tmp_path / "weighed"]
    flags = ["--weights", "grams=2,seconds=1,money=1", "--start-batches", 5, "--replay-steps", 0]
    assert train(*paths, *flags) == 0
    objective = load_bundle(tmp_path / "weighed").manifest["objective"]
    assert [objective[name] for name in ("grams", "seconds", "money")] == [0.5, 0.25, 0.25]
    assert objective["tariff"]["currency"] == "USD"
    assert set(objective["tariff"]["sources"]) == {"electricity", "device"}
    job = continuing(tmp_path / "weighed", profile, DEFAULT_CATALOGUE, synthetic_day(), {})
    assert dict(job.costs.weights) == {"grams": 0.5, "seconds": 0.25, "money": 0.25}


def test_an_encoder_is_saved_in_the_bundle_and_used_when_it_continues(profile, tmp_path):
    paths = ["--outcomes", tmp_path / "profile.parquet", "--out", tmp_path / "read"]
    assert train(*paths, "--replay-steps", 4096, "--start-batches", 5, "--encoder", EMBEDDED) == 0
    bundle = load_bundle(tmp_path / "read")
    assert isinstance(bundle.featurizer.text, EncodedProjection)
    job = continuing(tmp_path / "read", profile, DEFAULT_CATALOGUE, synthetic_day(), {})
    assert job.vectors is not None
    assert job.vectors.width == bundle.featurizer.text.weights.shape[0]
