"""The single definition of the observation that the policy receives. NumPy only.

Training and serving share this code. The request's features come from the chat's text and an
optional task tag alone, so every feature that training used is available in serving.
"""

from collections.abc import Sequence

import numpy as np

from envs.arrays import AnyArray, BoolArray, Float32Array, Int64Array
from envs.requests.directive import Message
from envs.requests.moment import Moment
from envs.requests.projection import TextFeatures
from envs.requests.structure import OWN_LENGTH, STRUCTURE, Feature, Reading, read_chat

CONTEXT = (
    Feature("in_flight", "requests", 0, 1024, "requests at the server when this one is sent"),
    Feature("log_price", "ln(ratio)", -7, 7, "price of the request's quality; 0 if none is shown"),
    Feature(
        "log_latency_price", "ln(ratio)", -7, 7, "price of its latency's limits; 0 if none is shown"
    ),
    Feature("log_intensity", "ln(1+gCO2e/kWh)", 0, 8, "the grid's intensity now"),
    Feature("recent_place", "ratio", 0, 1, "its place in the trailing 24 hours' range"),
    Feature(
        "coming_place", "ratio", 0, 1, "share of the next 24 hours that are cleaner (looks ahead)"
    ),
    Feature("hour_sin", "sin", -1, 1, "hour of day (UTC), as an angle"),
    Feature("hour_cos", "cos", -1, 1, "hour of day (UTC), as an angle"),
)

# Prefix of learned features that predict the logarithm of the energy under a directive.
LOG_ENERGY = "log_energy="
# Unit of intensity in the `spared=` features, gCO2e/kWh.
SPARED_PER = 100.0

# Prefix of learned features that say how much a request's words resemble those of a task.
LIKE = "like="

# Group of the prices, which an operator's floors decide.
PRICE = "price"
# Groups of features, by their source.
GROUPS = ("structure", "text", "tags", "load", PRICE, "carbon")
# Group of the `spared=` features, which belong to both "text" and "carbon".
SPARED = "spared"
# Group of the carbon features that come from a forecast.
FORECAST = "forecast"


class Featurizer:
    """Turns chats and context into observations of float32, shape (n_features,).

    Args:
        tasks: the task tags that the policy knows. For any other tag, or none, all tag
            components are 0.
        text: learned features of the text, from training; None for no such features.
    """

    def __init__(self, tasks: Sequence[str], text: TextFeatures | None = None) -> None:
        self.tasks = tuple(tasks)
        self.text = text
        learned = () if text is None else tuple(text.features)
        tags = tuple(Feature(f"task={t}", "0/1", 0, 1, "the request's task tag") for t in tasks)
        energies = [i for i, f in enumerate(learned) if f.name.startswith(LOG_ENERGY)]
        # Each one combines predicted energy and carbon intensity in one number.
        spared = tuple(
            _spared_feature(learned[i].name.removeprefix(LOG_ENERGY)) for i in energies[1:]
        )
        self.features = STRUCTURE + learned + tags + CONTEXT + spared
        self._learned = slice(len(STRUCTURE), len(STRUCTURE) + len(learned))
        self._tags = {task: [float(task == tag) for tag in tasks] for task in tasks}
        self._untagged = [0.0] * len(tasks)
        # Index of the first task tag.
        self.tags_start = self._learned.stop
        self.low = np.array([f.low for f in self.features], dtype=np.float32)
        self.high = np.array([f.high for f in self.features], dtype=np.float32)
        context_start = self._learned.stop + len(tags)
        self._energies = np.array(energies, dtype=np.intp) + len(STRUCTURE)
        self._context = slice(context_start, context_start + len(CONTEXT))
        # Index of the feature "in_flight", and indices of the two prices.
        self.load = context_start
        self.prices = slice(context_start + 1, context_start + 3)
        self._bounds = self.low[:context_start], self.high[:context_start]
        self._context_bounds = self.low[self._context], self.high[self._context]

    @property
    def names(self) -> tuple[str, ...]:
        """Component names in order."""
        return tuple(feature.name for feature in self.features)

    @property
    def groups(self) -> dict[str, Int64Array]:
        """Component indices of each group in `GROUPS`, and of `SPARED` and `FORECAST`."""
        indices = np.arange(len(self.features))
        first, last = self._context.start, self._context.stop
        return {
            "structure": indices[: len(STRUCTURE)],
            "text": np.concatenate([indices[self._learned], indices[last:]]),
            "tags": indices[self._learned.stop : first],
            "load": indices[first : first + 1],
            PRICE: indices[self.prices],
            "carbon": indices[self.prices.stop :],
            SPARED: indices[last:],
            FORECAST: indices[self.names.index("coming_place")][None],
        }

    def request(self, messages: Sequence[Message], task: str | None) -> Float32Array:
        """Return the request's part of the observation, shape (features before context,).

        Args:
            messages: the chat.
            task: the request's task tag; None if the client sent none.

        Raises:
            ValueError: a message's content is neither text nor a list of parts.
        """
        return self.part(read_chat(messages), task)

    def part(self, reading: Reading, task: str | None) -> Float32Array:
        """Return what `request` returns, of a chat that was read already."""
        learned = () if self.text is None else self.text.measure(reading).tolist()
        tagged = self._untagged if task is None else self._tags.get(task, self._untagged)
        part = np.array([*reading.structure, *learned, *tagged], dtype=np.float32)
        low, high = self._bounds
        np.maximum(part, low, out=part)
        np.minimum(part, high, out=part)
        return part

    def steerable(self, observations: Float32Array) -> BoolArray:
        """Return whether each request may be given a directive, shape (n,) or ().

        A request that states the length of its own answer may not: the caller's wish has
        priority.

        Args:
            observations: shape (n, n_features) or (n_features,).
        """
        mask: BoolArray = observations[..., OWN_LENGTH] < 0.5
        return mask

    def observe(
        self,
        parts: Float32Array,
        moment: Moment,
    ) -> Float32Array:
        """Return the observations of n requests, shape (n, n_features).

        Args:
            parts: the requests' parts from `request`, shape (n, features before context).
            moment: context of each request.
        """
        return self.join(parts, self.context(moment), moment.g_per_kwh)

    def context(self, moment: Moment) -> Float32Array:
        """Return the context features, shape (n, len(CONTEXT)); the first column is the load."""
        angle = 2 * np.pi * (np.asarray(moment.time) % 86400) / 86400
        columns = (
            moment.in_flight,
            moment.log_price,
            moment.log_latency_price,
            # A logarithm, like the predicted energies, so that their product is a sum.
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
        """Join requests' parts and their context to observations, shape (n, n_features)."""
        spared = self._spared(parts, g_per_kwh)
        return np.concatenate((parts, context, spared), axis=1)

    def join_one(self, part: Float32Array, context: Float32Array, g_per_kwh: float) -> Float32Array:
        """Return what `join` returns for one request, sooner.

        Args:
            part: shape (features before context,).
            context: shape (len(CONTEXT),).

        Returns:
            The observation, shape (n_features,).
        """
        energy = np.exp(part[self._energies])
        spared = energy[0] - energy[1:] if energy.size else energy
        spared *= np.float32(g_per_kwh) / np.float32(SPARED_PER)
        return np.concatenate((part, context, spared))

    def at_intensity(self, observations: Float32Array, g_per_kwh: AnyArray) -> Float32Array:
        """Return the observations with other carbon intensities, shape (n, n_features).

        Args:
            g_per_kwh: the other intensities, gCO2e/kWh, shape (n,).
        """
        changed = observations.copy()
        changed[:, self.names.index("log_intensity")] = np.log1p(g_per_kwh)
        changed[:, self._context.stop :] = self._spared(observations, g_per_kwh)
        return changed

    def at_prices(
        self,
        observations: Float32Array,
        log_price: AnyArray | float,
        log_latency_price: AnyArray | float,
    ) -> Float32Array:
        """Return the observations with other prices, shape (n, n_features).

        Args:
            log_price, log_latency_price: logarithms of the other prices, shape (n,) or ().
        """
        changed = observations.copy()
        low, high = self.low[self.prices], self.high[self.prices]
        for column, price in enumerate((log_price, log_latency_price)):
            clipped = np.clip(price, low[column], high[column])
            changed[:, self.prices.start + column] = clipped
        return changed

    def _spared(self, parts: Float32Array, g_per_kwh: AnyArray) -> Float32Array:
        """Return the predicted saving of each directive except L0, shape (n, directives - 1)."""
        energy = np.exp(parts.take(self._energies, axis=1))
        intensity = np.asarray(g_per_kwh, dtype=np.float32)[:, None] / SPARED_PER
        spared: Float32Array = (energy[:, :1] - energy[:, 1:]) * intensity
        return spared


def _spared_feature(name: str) -> Feature:
    meaning = f"predicted energy saved by {name}, relative to the mean under L0, times intensity"
    return Feature(f"spared={name}", f"{SPARED_PER:g} gCO2e/kWh", -2000, 2000, meaning)
