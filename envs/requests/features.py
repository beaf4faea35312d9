"""What the policy sees: the one definition of the observation.

The same code observes in training and in serving, from the chat's text alone, so
that nothing the policy relies on is missing when a request arrives. NumPy only.
"""

from collections.abc import Sequence

import numpy as np

from envs.arrays import AnyArray, BoolArray, Float32Array, Int64Array
from envs.requests.directive import Message
from envs.requests.moment import Moment
from envs.requests.projection import TextFeatures
from envs.requests.structure import OWN_LENGTH, STRUCTURE, Feature, read_chat

CONTEXT = (
    Feature("in_flight", "requests", 0, 1024, "requests at the server when this one is sent"),
    Feature("log_intensity", "ln(1+gCO2e/kWh)", 0, 8, "the grid's intensity now"),
    Feature("recent_place", "ratio", 0, 1, "its place in the trailing 24 hours' range"),
    Feature("coming_place", "ratio", 0, 1, "share of the next 24 hours that are cleaner"),
    Feature("hour_sin", "sin", -1, 1, "hour of day (UTC), as an angle"),
    Feature("hour_cos", "cos", -1, 1, "hour of day (UTC), as an angle"),
)

# Names of learned features that foretell logarithms of energy under each directive.
LOG_ENERGY = "log_energy="
# gCO2e/kWh: the unit of intensity in what directives spare.
SPARED_PER = 100.0

# Groups of features, by what they come from.
GROUPS = ("structure", "text", "tags", "load", "carbon")
# What is of two of them: of text and carbon.
SPARED = "spared"
# What of the carbon a forecast tells.
FORECAST = "forecast"


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
        energies = [i for i, f in enumerate(learned) if f.name.startswith(LOG_ENERGY)]
        # What each directive would spare now: both sides of the choice in one number.
        spared = tuple(
            _spared_feature(learned[i].name.removeprefix(LOG_ENERGY)) for i in energies[1:]
        )
        self.features = STRUCTURE + learned + tags + CONTEXT + spared
        self._learned = slice(len(STRUCTURE), len(STRUCTURE) + len(learned))
        self._tags = {task: [float(task == tag) for tag in tasks] for task in tasks}
        self._untagged = [0.0] * len(tasks)
        self.low = np.array([f.low for f in self.features], dtype=np.float32)
        self.high = np.array([f.high for f in self.features], dtype=np.float32)
        own = self._learned.stop + len(tags)
        self._energies = np.array(energies, dtype=np.intp) + len(STRUCTURE)
        self._context = slice(own, own + len(CONTEXT))
        self._bounds = self.low[:own], self.high[:own]
        self._context_bounds = self.low[self._context], self.high[self._context]

    @property
    def names(self) -> tuple[str, ...]:
        """Component names in order."""
        return tuple(feature.name for feature in self.features)

    @property
    def groups(self) -> dict[str, Int64Array]:
        """Places of each of `GROUPS`, of `SPARED` and of `FORECAST` among the components."""
        places = np.arange(len(self.features))
        first, last = self._context.start, self._context.stop
        return {
            "structure": places[: len(STRUCTURE)],
            "text": np.concatenate([places[self._learned], places[last:]]),
            "tags": places[self._learned.stop : first],
            "load": places[first : first + 1],
            "carbon": places[first + 1 :],
            SPARED: places[last:],
            FORECAST: places[self.names.index("coming_place")][None],
        }

    def request(self, messages: Sequence[Message], task: str | None) -> Float32Array:
        """The request's part, shape (features before context,).

        Raises:
            ValueError: a message is not a mapping with text or parts.
        """
        reading = read_chat(messages)
        learned = () if self.text is None else self.text.measure(reading).tolist()
        tagged = self._untagged if task is None else self._tags.get(task, self._untagged)
        part = np.array([*reading.structure, *learned, *tagged], dtype=np.float32)
        low, high = self._bounds
        np.maximum(part, low, out=part)
        np.minimum(part, high, out=part)
        return part

    def steerable(self, observations: Float32Array) -> BoolArray:
        """Whether each request may be given a directive, shape (n, n_features) -> (n,).

        Not one that says itself how long its answer is to be: that wish goes before ours.
        """
        mask: BoolArray = observations[:, OWN_LENGTH] < 0.5
        return mask

    def observe(
        self,
        parts: Float32Array,
        moment: Moment,
    ) -> Float32Array:
        """Observations of n requests at a moment of each, shape (n, n_features).

        Args:
            parts: of `request`, shape (n, features before context).
        """
        return self.join(parts, self.context(moment), moment.g_per_kwh)

    def context(self, moment: Moment) -> Float32Array:
        """Context features, shape (n, len(CONTEXT)); the first column is the load."""
        angle = 2 * np.pi * (np.asarray(moment.time) % 86400) / 86400
        columns = (
            moment.in_flight,
            # Intensity and predicted energies are logarithms: their product is then a sum.
            np.log1p(moment.g_per_kwh),
            moment.recent_place,
            moment.coming_place,
            np.sin(angle),
            np.cos(angle),
        )
        context = np.empty((len(angle), len(columns)), dtype=np.float32)
        for index, column in enumerate(columns):
            context[:, index] = column
        low, high = self._context_bounds
        return np.minimum(np.maximum(context, low), high)

    def join(self, parts: Float32Array, context: Float32Array, g_per_kwh: AnyArray) -> Float32Array:
        """Observations from requests' parts and their context, shape (n, n_features)."""
        spared = self._spared(parts, g_per_kwh)
        return np.concatenate((parts, context, spared), axis=1)

    def at_intensity(self, observations: Float32Array, g_per_kwh: AnyArray) -> Float32Array:
        """The same requests on another grid, shape (n, n_features); intensities (n,)."""
        moved = observations.copy()
        moved[:, self.names.index("log_intensity")] = np.log1p(g_per_kwh)
        moved[:, self._context.stop :] = self._spared(observations, g_per_kwh)
        return moved

    def _spared(self, parts: Float32Array, g_per_kwh: AnyArray) -> Float32Array:
        """What each directive would spare, shape (n, directives foretold less L0)."""
        energy = np.exp(parts.take(self._energies, axis=1))
        grid = np.asarray(g_per_kwh, dtype=np.float32)[:, None] / SPARED_PER
        spared: Float32Array = (energy[:, :1] - energy[:, 1:]) * grid
        return spared


def _spared_feature(name: str) -> Feature:
    meaning = f"energy foretold to be spared by {name}, to the mean under L0, times intensity"
    return Feature(f"spared={name}", f"{SPARED_PER:g} gCO2e/kWh", -2000, 2000, meaning)
