"""A trained policy bundle as a method."""

from dataclasses import dataclass

import numpy as np

from agents.methods.method import TRAINED
from agents.methods.scene import Scene
from agents.policy.bundle import Bundle
from envs.arrays import Float64Array
from envs.errors import BundleError


@dataclass(frozen=True)
class Learned:
    """Follows a bundle's policy, in expectation over its sampling.

    Attributes:
        task_tags: whether the policy sees the requests' tasks, as from clients that name
            them.
    """

    bundle: Bundle
    task_tags: bool = True
    knows = TRAINED

    def choose(self, scene: Scene) -> Float64Array:
        """See `Method`.

        Raises:
            BundleError: the bundle chooses among directives that the profile lacks.
        """
        own, names = self.bundle.catalogue.names, scene.profile.directives
        missing = [name for name in own if name not in names]
        if missing:
            raise BundleError(
                f"the bundle chooses {missing[0]!r}, for which the profile has no outcomes; it "
                f"has {', '.join(names)}"
            )
        featurizer = self.bundle.featurizer
        seen = scene.observations(featurizer, self.task_tags)
        chances = self.bundle.policy.allowed(seen, featurizer.steerable(seen))
        table = np.zeros(scene.scores.shape)
        table[:, [names.index(name) for name in own]] = chances
        return table
