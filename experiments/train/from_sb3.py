"""`sprout bundle from-sb3`: a stable-baselines3 checkpoint as a policy bundle."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from agents.policy.bundle import load_bundle, save_bundle
from agents.policy.checkpoint import read_policy
from envs.errors import ConfigError, DataError
from envs.outcomes.profile import fingerprint
from envs.outcomes.profile_reader import read_profile
from envs.requests.directive import read_catalogue
from envs.requests.features import Featurizer
from experiments.settings import Settings


class FromSb3(Settings):
    """Turn a checkpoint of `model.save()` into a bundle; no pickle in it is loaded.

    What the policy observes comes from --like, a bundle with the same featurizer, or from
    --outcomes, the profile that its environment replayed.
    """

    checkpoint: CliPositionalArg[Path] = Field(description="PPO or A2C checkpoint (.zip)")
    out: Path = Field(description="folder that becomes the bundle")
    like: Path | None = Field(None, description="bundle whose observations it was trained on")
    outcomes: Path | None = Field(None, description="profile that its environment replayed")
    model: str | None = Field(None, description="whose rows of the profile were used")
    directives: Path | None = Field(None, description="YAML catalogue; default the paper's three")
    activation: Literal["tanh", "relu"] | None = Field(
        None, description="between layers; default what the checkpoint says"
    )

    def cli_cmd(self) -> None:
        """Read, check, write."""
        if (self.like is None) == (self.outcomes is None):
            raise ConfigError("give --like BUNDLE or --outcomes PROFILE, one of them")
        policy = read_policy(self.checkpoint, self.activation)
        if self.like is not None:
            other = load_bundle(self.like)
            catalogue, featurizer, model = other.catalogue, other.featurizer, other.model
            data = other.manifest.get("data", {})
            live = {"prompt_hashes": other.manifest.get("live", {}).get("prompt_hashes", [])}
        else:
            assert self.outcomes is not None
            catalogue = read_catalogue(self.directives)
            profile = read_profile(self.outcomes, self.model, catalogue.names)
            featurizer, model = Featurizer(profile.tasks), profile.model
            hashes = [request.prompt_hash for request in profile.requests]
            data, live = {"fingerprint": fingerprint(profile), "prompt_hashes": hashes}, {}
        sizes = policy.layers[0][0].shape[1], policy.layers[-1][0].shape[0]
        wanted = len(featurizer.names), len(catalogue)
        if sizes != wanted:
            raise DataError(
                self.checkpoint,
                f"a policy of {sizes[0]} observed components and {sizes[1]} actions",
                f"give one of {wanted[0]} and {wanted[1]}, as its environment has",
            )
        extra = {"training": {"source": self.checkpoint.name}, "data": data, "live": live}
        bundle = save_bundle(self.out, policy, catalogue, featurizer, model, extra)
        print(f"policy {bundle.version} in {self.out}")


BUNDLES = {"from-sb3": FromSb3}
