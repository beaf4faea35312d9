"""Inference of a policy: a small network in NumPy, without torch."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from envs.arrays import AnyArray, BoolArray, Float32Array, Float64Array

# Normalised observations are clipped to this range, so that no outlier saturates the network.
CLIP = 5.0
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, np.float32(0)),
}


@dataclass(frozen=True)
class Policy:
    """A stochastic policy: maps an observation to the probability of each directive.

    A multilayer perceptron with an activation between layers and softmax at the end, over
    observations normalised as clip((x - mean) * scale, -clip, clip).

    Attributes:
        mean, scale: shape (n_features,); scale 0 masks a feature that never varied in
            training or that the policy must not see.
        layers: (weight, bias) pairs, weights of shape (out, in); the last layer outputs the
            logits.
        clip: bound on normalised observations; infinity if training did not clip.
        activation: one of `ACTIVATIONS`.
    """

    mean: Float32Array
    scale: Float32Array
    layers: tuple[tuple[Float32Array, Float32Array], ...]
    clip: float = CLIP
    activation: str = "tanh"

    def probabilities(self, observations: Float32Array) -> Float64Array:
        """Return the probability of each directive, shape (n, n_directives); rows sum to 1.

        Args:
            observations: shape (n, n_features).
        """
        weight, bias = self.layers[0]
        return self._outputs(self._normalised(observations) @ weight.T + bias)

    def sweep(
        self, observations: Float32Array, features: Sequence[int], values: AnyArray
    ) -> Iterator[Float64Array]:
        """Yield `probabilities` with some features set to other values, the same in all rows.

        Faster than `probabilities` of changed observations: the first layer is computed once.

        Args:
            observations: shape (n, n_features).
            features: indices of the features.
            values: shape (k, len(features)).
        """
        index = list(features)
        weight, bias = self.layers[0]
        others = self._normalised(observations)
        others[:, index] = 0
        sums = others @ weight.T + bias
        rows = np.zeros((len(values), len(self.mean)), dtype=np.float32)
        rows[:, index] = values
        for row in self._normalised(rows)[:, index]:
            yield self._outputs(sums + weight[:, index] @ row)

    def _normalised(self, observations: Float32Array) -> Float32Array:
        result = (observations - self.mean) * self.scale
        if self.clip < np.inf:
            result = np.minimum(np.maximum(result, -self.clip), self.clip)
        return result

    def _outputs(self, sums: Float32Array) -> Float64Array:
        """Return the probabilities from the first layer's outputs before their activation."""
        active = ACTIVATIONS[self.activation]
        for weight, bias in self.layers[1:]:
            sums = active(sums) @ weight.T
            sums += bias
        # Softmax with the requests last: NumPy is slow along an axis of a few directives.
        odds = sums.T.astype(np.float64, order="C")
        odds -= odds.max(axis=0)
        np.exp(odds, out=odds)
        odds /= odds.sum(axis=0)
        return np.ascontiguousarray(odds.T)

    def probabilities_of(self, observation: Float32Array) -> list[float]:
        """Return the probabilities of one observation, shape (n_features,).

        Three times as fast as `probabilities`.
        """
        hidden = observation - self.mean
        hidden *= self.scale
        if self.clip < np.inf:
            low, high = self._bounds
            np.minimum(hidden, high, out=hidden)
            np.maximum(hidden, low, out=hidden)
        active = ACTIVATIONS[self.activation]
        for weight, bias in self.layers[:-1]:
            hidden = weight.dot(hidden)
            hidden += bias
            hidden = active(hidden)
        weight, bias = self.layers[-1]
        logits = (weight.dot(hidden) + bias).tolist()
        highest = max(logits)
        odds = [math.exp(logit - highest) for logit in logits]
        total = sum(odds)
        return [value / total for value in odds]

    @cached_property
    def _bounds(self) -> tuple[Float32Array, Float32Array]:
        """The clip as arrays: with numbers, NumPy's comparisons take twice as long."""
        high = np.full_like(self.mean, self.clip)
        return -high, high

    def allowed(self, observations: Float32Array, steerable: BoolArray) -> Float64Array:
        """Return `probabilities`, with probability 1 for L0 on requests that must not be steered.

        Args:
            observations: shape (n, n_features).
            steerable: mask of the requests that may be given a directive, shape (n,).
        """
        chance = self.probabilities(observations)
        chance[~steerable] = np.eye(1, chance.shape[1])
        return chance

    def blind_to(self, features: Sequence[int]) -> "Policy":
        """Return a policy that acts as if some features, given by index, were always 0."""
        index = list(features)
        scale, (weight, bias) = self.scale.copy(), self.layers[0]
        at_zero = np.clip(-self.mean[index] * scale[index], -self.clip, self.clip)
        scale[index] = 0
        first = weight, bias + weight[:, index] @ at_zero
        return replace(self, scale=scale, layers=(first, *self.layers[1:]))

    def sharpened(self, factor: float) -> "Policy":
        """Return a policy whose log-odds are multiplied by a factor above 0."""
        weight, bias = self.layers[-1]
        last = weight * np.float32(factor), bias * np.float32(factor)
        return replace(self, layers=(*self.layers[:-1], last))

    def arrays(self) -> dict[str, Float32Array]:
        """Return the tensors by name, as the policy bundle stores them."""
        named = {"mean": self.mean, "scale": self.scale}
        for index, (weight, bias) in enumerate(self.layers):
            named |= {f"layers.{index}.weight": weight, f"layers.{index}.bias": bias}
        return named


def normalisation(
    observations: Float32Array,
) -> tuple[Float32Array, Float32Array]:
    """Return mean and scale of each feature over `observations`, shape (n, n_features).

    A feature that does not vary gets scale 0: training cannot teach the policy its effect, so
    the policy must not react to it.
    """
    spread = observations.std(axis=0)
    varies = spread > 1e-6
    scale = np.where(varies, 1 / np.where(varies, spread, 1), 0).astype(np.float32)
    return observations.mean(axis=0).astype(np.float32), scale
