import shutil
from pathlib import Path

import pytest
import wandb

from agents.policy.bundle import load_bundle
from envs.errors import ConfigError
from experiments.artifacts import bundle_folder
from tests import made


class Artifact:
    """Stand-in for the result of `wandb.Api().artifact`; downloads from a local folder."""

    version = "v3"

    def __init__(self, folder):
        self._folder = folder

    def download(self, root):
        shutil.copytree(self._folder, root, dirs_exist_ok=True)
        return root


def test_a_bundle_is_fetched_by_its_artifact_name(tmp_path, monkeypatch):
    bundle = made.bundle(tmp_path / "kept")
    requested_artifacts = []

    class Api:
        def artifact(self, name, type):
            requested_artifacts.append((name, type))
            return Artifact(tmp_path / "kept")

    monkeypatch.setattr(wandb, "Api", Api)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = bundle_folder("wandb:team/project/policy-bundle:best")
    assert requested_artifacts == [("team/project/policy-bundle:best", "policy")]
    assert folder == tmp_path / "cache/sprout-rl/team/project/policy-bundle-v3"
    assert load_bundle(folder).version == bundle.version


def test_the_name_of_a_folder_is_returned_as_its_path():
    assert bundle_folder("runs/policy") == Path("runs/policy")


@pytest.mark.parametrize("name", ["wandb:policy", "wandb:a/b/c", "wandb:a/b/../c:d", "wandb:"])
def test_a_malformed_artifact_name_is_refused(name):
    with pytest.raises(ConfigError, match="ENTITY/PROJECT/NAME:ALIAS"):
        bundle_folder(name)


def test_an_artifact_that_cannot_be_fetched_is_named_in_the_error(monkeypatch):
    class Api:
        def artifact(self, name, type):
            raise wandb.errors.CommError("artifact membership not found\ndetails")

    monkeypatch.setattr(wandb, "Api", Api)
    with pytest.raises(ConfigError, match=r"a/b/c:d: cannot be fetched \(artifact membership"):
        bundle_folder("wandb:a/b/c:d")
