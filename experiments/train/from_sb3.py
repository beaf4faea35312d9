"""`sprout bundle from-sb3`: convert a stable-baselines3 checkpoint to a policy bundle."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from agents.policy.bundle import load_bundle, save_bundle
from agents.policy.bundle_files import sha256_of
from agents.policy.checkpoint import read_checkpoint
from agents.training.like import hidden_features, problem_of
from envs.errors import ConfigError, DataError
from envs.outcomes.profile import fingerprint
from envs.outcomes.profile_reader import read_profile
from envs.requests.directive import read_catalogue
from envs.requests.features import Featurizer
from experiments.settings import Settings


class FromSb3(Settings):
    """Convert a checkpoint written by `model.save()` to a bundle; no pickle in it is loaded.

    The definition of the policy's observations is taken from --like, a bundle with the same
    featurizer, or from --outcomes, the profile that the policy's environment replayed.
    """

    checkpoint: CliPositionalArg[Path] = Field(
        description="checkpoint (.zip) of PPO, A2C, TRPO or MaskablePPO"
    )
    out: Path = Field(description="folder for the bundle")
    like: Path | None = Field(
        None, description="bundle with the same observations as the checkpoint"
    )
    outcomes: Path | None = Field(None, description="profile that the training replayed")
    model: str | None = Field(None, description="model whose rows of the profile were used")
    directives: Path | None = Field(
        None, description="YAML catalogue of directives; default the paper's three"
    )
    vecnormalize: Path | None = Field(
        None,
        description="file of the VecNormalize around the training's environment (env.save(FILE))",
    )
    activation: Literal["tanh", "relu"] | None = Field(
        None, description="activation between layers; default that of the checkpoint"
    )

    def cli_cmd(self) -> None:
        """Read and check the checkpoint, and write the bundle."""
        if (self.like is None) == (self.outcomes is None):
            raise ConfigError("give either --like BUNDLE or --outcomes PROFILE, not both")
        checkpoint = read_checkpoint(self.checkpoint, self.activation, self.vecnormalize)
        policy = checkpoint.policy
        hidden: tuple[int, ...] = ()
        if self.like is not None:
            like = load_bundle(self.like)
            catalogue, featurizer, model = like.catalogue, like.featurizer, like.model
            data = like.manifest.get("data", {})
            problem, hidden = problem_of(like), hidden_features(like)
            live = {"prompt_hashes": like.manifest.get("live", {}).get("prompt_hashes", [])}
        else:
            assert self.outcomes is not None
            catalogue = read_catalogue(self.directives)
            profile = read_profile(self.outcomes, self.model, catalogue.names)
            featurizer, model = Featurizer(profile.tasks), profile.model
            hashes = [request.prompt_hash for request in profile.requests]
            data, live = {"fingerprint": fingerprint(profile), "prompt_hashes": hashes}, {}
            problem = {}
        sizes = policy.layers[0][0].shape[1], policy.layers[-1][0].shape[0]
        expected = len(featurizer.names), len(catalogue)
        if sizes != expected:
            raise DataError(
                self.checkpoint,
                f"the policy has {sizes[0]} observed components and {sizes[1]} actions",
                f"give one with {expected[0]} and {expected[1]}, as its environment has",
            )
        policy = policy.blind_to(hidden)
        source = {"source": self.checkpoint.name, "sha256": sha256_of(self.checkpoint)}
        training = source | checkpoint.training
        extra = {"training": training, "data": data, "live": live, "problem": problem}
        bundle = save_bundle(self.out, policy, catalogue, featurizer, model, extra)
        print(f"policy {bundle.version} in {self.out}")
        if self.like is not None:
            names = ", ".join(featurizer.names[i] for i in hidden) or "none"
            print(f"as in {self.like}: floors, training prompts, and hidden features ({names})")


BUNDLES = {"from-sb3": FromSb3}
