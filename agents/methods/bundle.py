"""A trained policy bundle as a comparable method."""

from dataclasses import dataclass

import numpy as np

from agents.methods.method import TRAINED
from agents.methods.scene import Scene
from agents.policy.bundle import Bundle
from agents.policy.pricing import Floors, floors_from
from envs.arrays import Float32Array, Float64Array
from envs.errors import BundleError


@dataclass(frozen=True)
class Learned:
    """Returns the probabilities of a bundle's policy, so that evaluation needs no sampling.

    A policy that observes prices is asked to keep the scene's floors, zone by zone.

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
        # A policy with fixed prices keeps none but the floors of its training.
        floors = floors_from({} if self.bundle.front is None else scene.floors, "evaluation")
        observations, l0_share = self.observations(scene, floors)
        steerable = self.bundle.featurizer.steerable(observations)
        chances = self.bundle.policy.allowed(observations, steerable)
        chances *= 1 - l0_share[:, None]
        chances[:, 0] += l0_share
        probabilities = np.zeros(scene.scores.shape)
        probabilities[:, [names.index(name) for name in bundle_names]] = chances
        return probabilities

    def observations(self, scene: Scene, floors: Floors) -> tuple[Float32Array, Float64Array]:
        """Return each request's observation with its price, and its share that is left at L0.

        Shapes (n, n_features) and (n,).
        """
        featurizer = self.bundle.featurizer
        observations = scene.observations(featurizer, self.task_tags)
        tags = scene.tasks if self.task_tags else np.full(len(scene), None)
        l0_share = np.zeros(len(scene))
        for index, trace in enumerate(scene.traces):
            rows = scene.zone == index
            if not rows.any():
                continue
            points = self.bundle.pricing(trace.zone).points(
                tags[rows].tolist(), observations[rows], scene.intensity[rows], floors
            )
            observations[rows] = featurizer.at_prices(
                observations[rows], points.log_price, points.log_latency_price
            )
            l0_share[rows] = points.l0_share
        return observations, l0_share
