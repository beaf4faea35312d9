"""A trained policy bundle as a comparable method."""

from dataclasses import dataclass

import numpy as np

from agents.methods.method import TRAINED
from agents.methods.scene import Scene
from agents.policy.bundle import Bundle
from envs.arrays import Float64Array
from envs.errors import BundleError


@dataclass(frozen=True)
class Learned:
    """Returns the probabilities of a bundle's policy, so that evaluation needs no sampling.

    Attributes:
        bundle: the policy bundle.
        task_tags: whether the policy sees the requests' task tags, as from clients that send
            them.
    """

    bundle: Bundle
    task_tags: bool = True
    knows = TRAINED

    def choose(self, scene: Scene) -> Float64Array:
        """Return the probability of each directive for each request, shape (n, D).

        Raises:
            BundleError: the bundle has a directive for which the profile has no outcomes.
        """
        bundle_names, names = self.bundle.catalogue.names, scene.profile.directives
        missing = [name for name in bundle_names if name not in names]
        if missing:
            raise BundleError(
                f"the bundle has directive {missing[0]!r}, for which the profile has no outcomes; "
                f"the profile has {', '.join(names)}"
            )
        featurizer = self.bundle.featurizer
        observations = scene.observations(featurizer, self.task_tags)
        chances = self.bundle.policy.allowed(observations, featurizer.steerable(observations))
        probabilities = np.zeros(scene.scores.shape)
        probabilities[:, [names.index(name) for name in bundle_names]] = chances
        return probabilities
