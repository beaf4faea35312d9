"""What every way of choosing directives has in common, learned or not."""

from typing import Protocol

from agents.methods.scene import Scene
from envs.arrays import Float64Array

# What a method knew of the outcomes on which it is judged, from most to least.
ORACLE = "oracle"  # each request's own
HINDSIGHT = "hindsight"  # means over the judged requests
ONLINE = "online"  # of its own earlier choices
CROSS_FITTED = "cross-fitted"  # other prompts' only
TRAINED = "trained"  # its training prompts' only
NOTHING = "nothing"


class Method(Protocol):
    """Chooses directives for a scene.

    Attributes:
        knows: which of the judged outcomes it looks at; shown beside its figures.
    """

    @property
    def knows(self) -> str:
        """One of the constants of this module."""

    def choose(self, scene: Scene) -> Float64Array:
        """Probabilities of each directive for each request, shape (n, D)."""
