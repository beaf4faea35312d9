"""Outcomes: what (request, directive) pairs cost and were worth, as arrays."""

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
    """Outcomes of n requests; every array has shape (n,), in a profile of D directives (n, D).

    Attributes:
        prompt_tokens, completion_tokens: tokens, as the server counts them.
        energy_joules: J, as `energy_method` says.
        latency_seconds: s from sending to the last byte, as the client waits.
        device_seconds: s of the device's time; under batching, a share of the batch's time,
            because requests that run together also share the device.
        correct: agreement with the reference, 0..1; NaN without a reference.
        preference: judge's preference, 0..1; NaN without a verdict.
        energy_method: "measured", "attributed", "estimated", or "unlabelled" by its source; such
            words joined by "/" where requests differ.
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
        """Outcomes of some of the requests."""
        arrays: dict[str, Any] = {name: getattr(self, name)[index] for name in ARRAYS}
        responses = None if self.responses is None else tuple(self.responses[i] for i in index)
        return replace(self, **arrays, responses=responses)


def concatenate_outcomes(parts: Sequence[Outcomes]) -> Outcomes:
    """Outcomes one after another; their texts are left out."""
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS
    }
    methods = {method for part in parts for method in part.energy_method.split("/")}
    return Outcomes(**arrays, energy_method="/".join(sorted(methods)))
