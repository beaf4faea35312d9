"""The policy's light runtime: a small network in NumPy, no torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
# Normalised observations are cut here, so that one odd value cannot saturate the net.
CLIP = 5.0


@dataclass(frozen=True)
class Policy:
    """Observation -> probability of each directive.

    A multilayer perceptron with tanh between layers and softmax at the end, over
    observations normalised as clip((x - mean) * scale, -5, 5).

    Attributes:
        mean, scale: shape (n_features,); scale 0 masks a feature that never varied
            in training.
        layers: (weight, bias) pairs, weights of shape (out, in); the last one gives
            the logits.
    """

    mean: Floats
    scale: Floats
    layers: tuple[tuple[Floats, Floats], ...]

    def probabilities(self, observations: NDArray[np.float32]) -> NDArray[np.float64]:
        """Shape (n, n_features) -> (n, n_directives); rows sum to 1."""
        hidden = np.clip((observations - self.mean) * self.scale, -CLIP, CLIP)
        for weight, bias in self.layers[:-1]:
            hidden = np.tanh(hidden @ weight.T + bias)
        weight, bias = self.layers[-1]
        logits = (hidden @ weight.T + bias).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        odds = np.exp(logits)
        result: NDArray[np.float64] = odds / odds.sum(axis=1, keepdims=True)
        return result

    def allowed(
        self, observations: NDArray[np.float32], steerable: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """`probabilities`, and L0 for certain where a request may not be steered, shape (n,)."""
        chance = self.probabilities(observations)
        chance[~steerable] = np.eye(1, chance.shape[1])
        return chance

    def arrays(self) -> dict[str, Floats]:
        """Named tensors, as the policy bundle stores them."""
        named = {"mean": self.mean, "scale": self.scale}
        for index, (weight, bias) in enumerate(self.layers):
            named |= {f"layers.{index}.weight": weight, f"layers.{index}.bias": bias}
        return named
