"""What every way of choosing directives has in common, learned or not."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agents.scene import Scene

Floats = NDArray[np.float64]

# How much a method knew of the outcomes on which it is judged, from most to least.
ORACLE = "each request's outcomes"
HINDSIGHT = "means over the judged requests"
CROSS_FITTED = "other prompts' outcomes"
ONLINE = "outcomes of its own earlier choices"
NOTHING = "no outcomes"
TRAINED = "its training prompts' outcomes"


class Method(Protocol):
    """Chooses directives for a scene.

    Attributes:
        knows: which outcomes it may look at; shown beside its figures.
    """

    @property
    def knows(self) -> str:
        """One of the constants of this module."""

    def choose(self, scene: Scene) -> Floats:
        """Probabilities of each directive for each request, shape (n, D)."""
