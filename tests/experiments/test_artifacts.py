import shutil
from pathlib import Path

import pytest
import wandb

from agents.policy.bundle import load_bundle
from envs.errors import ConfigError
from experiments.artifacts import bundle_folder
from tests import made


class Artifact:
    """What `wandb.Api().artifact` gives, from a folder instead of the service."""

    version = "v3"

    def __init__(self, folder):
        self._folder = folder

    def download(self, root):
        shutil.copytree(self._folder, root, dirs_exist_ok=True)
        return root


def test_a_bundle_is_fetched_by_its_name(tmp_path, monkeypatch):
    saved = made.bundle(tmp_path / "kept")
    asked = []

    class Api:
        def artifact(self, name, type):
            asked.append((name, type))
            return Artifact(tmp_path / "kept")

    monkeypatch.setattr(wandb, "Api", Api)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = bundle_folder("wandb:team/project/policy-bundle:best")
    assert asked == [("team/project/policy-bundle:best", "policy")]
    assert folder == tmp_path / "cache/sprout-rl/team/project/policy-bundle-v3"
    assert load_bundle(folder).version == saved.version


def test_a_folder_stays_a_folder():
    assert bundle_folder("runs/policy") == Path("runs/policy")


@pytest.mark.parametrize("name", ["wandb:policy", "wandb:a/b/c", "wandb:a/b/../c:d", "wandb:"])
def test_a_malformed_name_is_refused(name):
    with pytest.raises(ConfigError, match="ENTITY/PROJECT/NAME:ALIAS"):
        bundle_folder(name)


def test_what_cannot_be_fetched_is_named(monkeypatch):
    class Api:
        def artifact(self, name, type):
            raise wandb.errors.CommError("artifact membership not found\ndetails")

    monkeypatch.setattr(wandb, "Api", Api)
    with pytest.raises(ConfigError, match=r"a/b/c:d: cannot be fetched \(artifact membership"):
        bundle_folder("wandb:a/b/c:d")
