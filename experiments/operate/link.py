"""`sprout link`: record the lineage of synced W&B runs, from profile to policy to evaluation."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field
from pydantic_settings import CliPositionalArg

from envs.errors import ConfigError
from experiments.settings import Settings


class Link(Settings):
    """Link each run of a W&B project to the artifacts that it was made from.

    W&B cannot link an artifact to a run that is offline. So each run stores the digests of its
    inputs, each artifact stores its own digest, and this command links them after `wandb sync`.
    Existing links stay, so the command may be run again.
    """

    project: CliPositionalArg[str] = Field(description="ENTITY/PROJECT")
    dry_run: bool = Field(False, description="only print what would be linked")

    def cli_cmd(self) -> None:
        """Find the missing links, add them, and print them."""
        import wandb

        if self.project.count("/") != 1:
            raise ConfigError(f"{self.project}: give ENTITY/PROJECT")
        try:
            linked = list(self._links(wandb.Api()))
        except (wandb.Error, ValueError) as error:
            raise ConfigError(f"{self.project}: {str(error).splitlines()[0]}") from error
        for line in linked:
            print(line)
        print(f"{len(linked)} {'to link' if self.dry_run else 'linked'}")

    def _links(self, api: Any) -> Iterator[str]:
        by_digest = dict(_artifacts(api, self.project))
        for run in api.runs(self.project):
            used = {artifact.id for artifact in run.used_artifacts()}
            for digest in _input_digests(run.config.get("inputs") or {}):
                artifact = by_digest.get(digest)
                if artifact is None or artifact.id in used:
                    continue
                used.add(artifact.id)
                if not self.dry_run:
                    run.use_artifact(artifact)
                yield f"{run.name} ({run.group}) uses {artifact.name}"


def _artifacts(api: Any, project: str) -> Iterator[tuple[str, Any]]:
    """Yield the digest of each profile and policy, with its artifact."""
    for kind in ("profile", "policy"):
        for collection in _collections(api, kind, project):
            for artifact in collection.artifacts():
                if digest := artifact.metadata.get("digest"):
                    yield digest, artifact


def _collections(api: Any, kind: str, project: str) -> list[Any]:
    kinds = {artifact_type.name for artifact_type in api.artifact_types(project)}
    return list(api.artifact_type(kind, project).collections()) if kind in kinds else []


def _input_digests(inputs: Mapping[str, Any]) -> list[str]:
    """Return the digests of a run's inputs: the profile and the policies that it evaluated."""
    policies = inputs.get("policies") or {}
    digests = (inputs.get("outcomes_sha256"), *policies.values())
    return [digest for digest in digests if digest]
