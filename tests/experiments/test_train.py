import pytest

from agents.config import PpoConfig
from envs.carbon import synthetic_day
from envs.directive import DEFAULT_CATALOGUE
from envs.errors import ConfigError
from envs.upstream import Upstream
from experiments.tracking import NullRun
from experiments.train import TrainingJob
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
