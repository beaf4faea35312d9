"""Outcomes: what (request, directive) pairs cost and were worth, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from envs.arrays import Float64Array

QUALITIES = ("correct", "preference")


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of n requests; every array has shape (n,).

    Attributes:
        prompt_tokens, completion_tokens: tokens, as the server counts them.
        energy_joules: J, as `energy_method` says.
        latency_seconds: s from sending to the last byte, as the client waits.
        device_seconds: s of the device's time; under batching, a share of the time that
            the batch took, for requests that run together also share the device.
        correct: agreement with the reference, 0..1; NaN without a reference.
        preference: judge's preference, 0..1; NaN where there is no verdict.
        energy_method: "measured", "attributed" or "estimated".
        responses: the answers' texts, or None where they were not kept.
    """

    prompt_tokens: Float64Array
    completion_tokens: Float64Array
    energy_joules: Float64Array
    latency_seconds: Float64Array
    device_seconds: Float64Array
    correct: Float64Array
    preference: Float64Array
    energy_method: str
    responses: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        sizes = {
            getattr(self, f.name).shape
            for f in fields(self)
            if isinstance(getattr(self, f.name), np.ndarray)
        }
        if len(sizes) != 1:
            raise ValueError(f"outcome arrays differ in shape: {sizes}")

    def __len__(self) -> int:
        return len(self.energy_joules)


def concatenate_outcomes(parts: Sequence[Outcomes]) -> Outcomes:
    """Outcomes one after another; their texts are left out."""
    arrays: dict[str, Any] = {
        f.name: np.concatenate([getattr(part, f.name) for part in parts])
        for f in fields(Outcomes)
        if isinstance(getattr(parts[0], f.name), np.ndarray)
    }
    return Outcomes(**arrays, energy_method=parts[0].energy_method)
