"""What the policy sees: the one definition of the observation.

The same code observes in training and in serving, from the chat's text alone, so
that nothing the policy relies on is missing when a request arrives. NumPy only.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.directive import Message
from envs.projection import TextFeatures
from envs.structure import OWN_LENGTH, STRUCTURE, Array, Feature, read

CONTEXT = (
    Feature("in_flight", "requests", 0, 1024, "requests at the server when this one is sent"),
    Feature("log_intensity", "ln(1+gCO2e/kWh)", 0, 8, "the grid's intensity now"),
    Feature("recent_place", "ratio", 0, 1, "its place in the trailing 24 hours' range"),
    Feature("hour_sin", "sin", -1, 1, "hour of day (UTC), as an angle"),
    Feature("hour_cos", "cos", -1, 1, "hour of day (UTC), as an angle"),
)

# What a policy can be made to do without, to learn what it is worth.
GROUPS = ("structure", "text", "tags", "load", "carbon")


class Featurizer:
    """Turns chats and context into observations of float32, shape (n_features,).

    Args:
        tasks: the task tags that the policy knows; any other tag, or none, leaves
            all their components 0.
        text: learned features of the text, from training; default none.
    """

    def __init__(self, tasks: Sequence[str], text: TextFeatures | None = None) -> None:
        self.tasks = tuple(tasks)
        self.text = text
        learned = () if text is None else tuple(text.features)
        tags = tuple(Feature(f"task={t}", "0/1", 0, 1, "the request's task tag") for t in tasks)
        self.features = STRUCTURE + learned + tags + CONTEXT
        self._learned = slice(len(STRUCTURE), len(STRUCTURE) + len(learned))
        first = self._learned.stop
        self._tags = {task: first + i for i, task in enumerate(self.tasks)}
        self.low = np.array([f.low for f in self.features], dtype=np.float32)
        self.high = np.array([f.high for f in self.features], dtype=np.float32)
        own = len(self.features) - len(CONTEXT)
        self._bounds = self.low[:own], self.high[:own]

    @property
    def names(self) -> tuple[str, ...]:
        """Component names in order."""
        return tuple(feature.name for feature in self.features)

    @property
    def groups(self) -> dict[str, slice]:
        """Place of each of `GROUPS` among the components."""
        first = len(self.features) - len(CONTEXT)
        return {
            "structure": slice(0, len(STRUCTURE)),
            "text": self._learned,
            "tags": slice(self._learned.stop, first),
            "load": slice(first, first + 1),
            "carbon": slice(first + 1, len(self.features)),
        }

    def request(self, messages: Sequence[Message], task: str | None) -> Array:
        """The request's part, shape (n_features - len(CONTEXT),).

        Raises:
            ValueError: a message is not a mapping with text or parts.
        """
        reading = read(messages)
        low, high = self._bounds
        part = np.zeros(len(low), dtype=np.float32)
        part[: len(STRUCTURE)] = reading.structure
        if self.text is not None:
            part[self._learned] = self.text.measure(reading)
        if task in self._tags:
            part[self._tags[task]] = 1.0
        return np.minimum(np.maximum(part, low), high)

    def steerable(self, observations: Array) -> NDArray[np.bool_]:
        """Whether each request may be given a directive, shape (n, n_features) -> (n,).

        Not one that says itself how long its answer is to be: that wish goes before ours.
        """
        mask: NDArray[np.bool_] = observations[:, OWN_LENGTH] < 0.5
        return mask

    def context(
        self,
        in_flight: NDArray[Any],
        intensity_g_per_kwh: NDArray[Any],
        recent_place: NDArray[Any],
        times: NDArray[Any],
    ) -> Array:
        """The moment's part, shape (n, len(CONTEXT)); `times` are Unix seconds."""
        angle = 2 * np.pi * (np.asarray(times) % 86400) / 86400
        # In logarithms, as the energies foretold: grams, their product, are then a sum.
        intensity = np.log1p(intensity_g_per_kwh)
        columns = [in_flight, intensity, recent_place, np.sin(angle), np.cos(angle)]
        part = np.stack([np.asarray(c, dtype=np.float32) for c in columns], axis=-1)
        return np.clip(part, self.low[-len(CONTEXT) :], self.high[-len(CONTEXT) :])
