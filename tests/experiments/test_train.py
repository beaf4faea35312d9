import pytest

from agents import ppo
from agents.config import PpoConfig
from envs.carbon import synthetic_day
from envs.directive import DEFAULT_CATALOGUE
from envs.errors import ConfigError, DataError
from envs.upstream import Upstream
from experiments.tracking import NullRun
from experiments.training import TrainingJob
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


def test_a_live_server_for_tasks_we_cannot_draw_is_refused_at_once(profile, tmp_path):
    # A replay of this length would outlast the test's own limit.
    config = PpoConfig(replay_steps=10**9)
    job = TrainingJob(profile, DEFAULT_CATALOGUE, synthetic_day(), FLOORS, config)
    with pytest.raises(ConfigError, match="other tasks"):
        job.run(tmp_path / "bundle", NullRun(), Upstream("http://127.0.0.1:9"))


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
