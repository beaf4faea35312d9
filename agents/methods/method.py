"""The protocol of all methods that choose directives, learned or not."""

from typing import Protocol

from agents.methods.scene import Scene
from envs.arrays import Float64Array

# The outcomes that a method has access to when it chooses, from most to least.
ORACLE = "oracle"  # each evaluated request's own outcomes
HINDSIGHT = "hindsight"  # means over the evaluated requests
ONLINE = "online"  # outcomes of its own earlier choices
CROSS_FITTED = "cross-fitted"  # outcomes of other prompts only
TRAINED = "trained"  # outcomes of its training prompts only
NOTHING = "nothing"


class Method(Protocol):
    """Chooses directives for a scene.

    Attributes:
        knows: the outcomes that the method has access to; shown beside its results.
    """

    @property
    def knows(self) -> str:
        """One of this module's constants, `ORACLE` to `NOTHING`."""

    def choose(self, scene: Scene) -> Float64Array:
        """Return the probability of each directive for each request, shape (n, D)."""
