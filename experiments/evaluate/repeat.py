"""One repetition of a comparison: the choices of each method on the same scene."""

from collections.abc import Mapping
from dataclasses import dataclass

from agents.methods.method import Method
from agents.methods.scene import Scene
from envs.arrays import Float64Array


@dataclass(frozen=True)
class Repeat:
    """One repetition of a comparison: a scene, and the choices of each method on it.

    Attributes:
        chances: directive probabilities of each method, shape (n, D).
        knows: `Method.knows` of each method.
    """

    scene: Scene
    chances: Mapping[str, Float64Array]
    knows: Mapping[str, str]


def choose(scene: Scene, methods: Mapping[str, Method]) -> Repeat:
    """Let every method choose directives for the same scene."""
    return Repeat(
        scene,
        {name: method.choose(scene) for name, method in methods.items()},
        {name: method.knows for name, method in methods.items()},
    )
