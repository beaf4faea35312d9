from types import SimpleNamespace

import pytest
import wandb

from experiments.cli import main


class Service:
    """Stand-in for `wandb.Api()`: a project with three artifacts and three runs."""

    def __init__(self):
        self.profile = SimpleNamespace(id="1", name="profile:v0", metadata={"digest": "aa"})
        self.policy = SimpleNamespace(id="2", name="policy-bundle:v0", metadata={"digest": "bb"})
        self.other = SimpleNamespace(id="3", name="policy-bundle:v1", metadata={})
        self.project_runs = [
            self.run("profiled", "profile", None),
            self.run("trained", "train", {"outcomes_sha256": "aa", "policies": {}}),
            self.run("judged", "evaluate", {"outcomes_sha256": "aa", "policies": {"p": "bb"}}),
        ]

    def run(self, name, group, inputs):
        used_artifacts_of_run = []
        return SimpleNamespace(
            name=name,
            group=group,
            config={} if inputs is None else {"inputs": inputs},
            used_artifacts=lambda: list(used_artifacts_of_run),
            use_artifact=used_artifacts_of_run.append,
        )

    def runs(self, project):
        assert project == "team/green"
        return self.project_runs

    def artifact_types(self, project):
        return [SimpleNamespace(name=name) for name in ("profile", "policy", "job")]

    def artifact_type(self, kind, project):
        artifacts = {"profile": [self.profile], "policy": [self.policy, self.other]}[kind]
        return SimpleNamespace(
            collections=lambda: [SimpleNamespace(artifacts=lambda: iter(artifacts))]
        )


@pytest.fixture
def service(monkeypatch):
    service = Service()
    monkeypatch.setattr(wandb, "Api", lambda: service)
    return service


def artifacts_by_run(service):
    return {run.name: [a.name for a in run.used_artifacts()] for run in service.project_runs}


def test_each_run_is_linked_once_to_the_artifacts_with_its_digests(service, capsys):
    assert main(["link", "team/green"]) == 0
    lineage = {
        "profiled": [],
        "trained": ["profile:v0"],
        "judged": ["profile:v0", "policy-bundle:v0"],
    }
    assert artifacts_by_run(service) == lineage
    assert "judged (evaluate) uses policy-bundle:v0" in capsys.readouterr().out
    assert main(["link", "team/green"]) == 0
    assert artifacts_by_run(service) == lineage
    assert "0 linked" in capsys.readouterr().out


def test_a_dry_run_changes_nothing(service, capsys):
    assert main(["link", "team/green", "--dry-run"]) == 0
    assert artifacts_by_run(service) == {"profiled": [], "trained": [], "judged": []}
    assert "3 to link" in capsys.readouterr().out


def test_a_project_without_its_entity_is_refused(capsys):
    assert main(["link", "green"]) == 2
    assert "give ENTITY/PROJECT" in capsys.readouterr().err


def test_an_error_of_the_service_is_printed_as_one_line(monkeypatch, capsys):
    def api():
        raise wandb.errors.UsageError("no API key\nlog in")

    monkeypatch.setattr(wandb, "Api", api)
    assert main(["link", "team/green"]) == 2
    assert capsys.readouterr().err == "sprout: team/green: no API key\n"
