"""Outcomes of (request, directive) pairs, costs and qualities, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from envs.arrays import Float64Array, Int64Array

QUALITIES = ("correct", "preference")


ARRAYS = (
    "prompt_tokens",
    "completion_tokens",
    "energy_joules",
    "latency_seconds",
    "device_seconds",
    *QUALITIES,
)


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of n requests.

    Every array has shape (n,), or (n, D) in a profile of D directives.

    Attributes:
        prompt_tokens, completion_tokens: tokens, as the server counts them.
        energy_joules: energy, J; `energy_method` states its origin.
        latency_seconds: s from sending the request to the last byte, measured at the client.
        device_seconds: s of the device's time. Under batching, a share of the batch's time,
            because requests that run together also share the device.
        correct: agreement with the reference, 0..1; NaN without a reference.
        preference: judge's preference, 0..1; NaN without a verdict.
        energy_method: "measured", "attributed", "estimated", or "unlabelled" if the source does
            not state it; several of these, joined by "/", if the requests differ.
        responses: the answers' texts, nested like the arrays; None if they were not kept.
    """

    prompt_tokens: Float64Array
    completion_tokens: Float64Array
    energy_joules: Float64Array
    latency_seconds: Float64Array
    device_seconds: Float64Array
    correct: Float64Array
    preference: Float64Array
    energy_method: str
    responses: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        shapes = {getattr(self, name).shape for name in ARRAYS}
        if len(shapes) != 1:
            raise ValueError(f"outcome arrays differ in shape: {shapes}")

    def __len__(self) -> int:
        return len(self.energy_joules)

    def select(self, index: Int64Array) -> "Outcomes":
        """Return the outcomes of the requests at the given indices."""
        arrays: dict[str, Any] = {name: getattr(self, name)[index] for name in ARRAYS}
        responses = None if self.responses is None else tuple(self.responses[i] for i in index)
        return replace(self, **arrays, responses=responses)


def concatenate_outcomes(parts: Sequence[Outcomes]) -> Outcomes:
    """Return the outcomes concatenated in order, without the answers' texts."""
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS
    }
    methods = {method for part in parts for method in part.energy_method.split("/")}
    return Outcomes(**arrays, energy_method="/".join(sorted(methods)))
