"""`sprout link`: draw the lineage of synced W&B runs, from profile to policy to evaluation."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field
from pydantic_settings import CliPositionalArg

from envs.errors import ConfigError
from experiments.settings import Settings


class Link(Settings):
    """Declare what each run of a W&B project was made from, as its inputs.

    An artifact cannot be used by a run that is offline. So runs keep the digests of what
    went in, artifacts keep their own, and this joins them after `wandb sync`. What is linked
    already stays; running it again is harmless.
    """

    project: CliPositionalArg[str] = Field(description="ENTITY/PROJECT")
    dry_run: bool = Field(False, description="only say what would be linked")

    def cli_cmd(self) -> None:
        """Find and link."""
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
        kept = dict(_artifacts(api, self.project))
        for run in api.runs(self.project):
            used = {artifact.id for artifact in run.used_artifacts()}
            for digest in _made_of(run.config.get("inputs") or {}):
                artifact = kept.get(digest)
                if artifact is None or artifact.id in used:
                    continue
                used.add(artifact.id)
                if not self.dry_run:
                    run.use_artifact(artifact)
                yield f"{run.name} ({run.group}) uses {artifact.name}"


def _artifacts(api: Any, project: str) -> Iterator[tuple[str, Any]]:
    """Profiles and policies by the digest of what they hold."""
    for kind in ("profile", "policy"):
        for collection in _collections(api, kind, project):
            for artifact in collection.artifacts():
                if digest := artifact.metadata.get("digest"):
                    yield digest, artifact


def _collections(api: Any, kind: str, project: str) -> list[Any]:
    known = {one.name for one in api.artifact_types(project)}
    return list(api.artifact_type(kind, project).collections()) if kind in known else []


def _made_of(inputs: Mapping[str, Any]) -> list[str]:
    """Digests of a run's inputs: the profile's file, and the policies that it judged."""
    policies = inputs.get("policies") or {}
    return [d for d in (inputs.get("outcomes_sha256"), *policies.values()) if d]
