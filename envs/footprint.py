"""The footprint of a request: operational + embodied carbon."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

JOULES_PER_KWH = 3.6e6
# SPROUT (Li et al., EMNLP 2024), section 3 and its artifact: one A100 server's
# embodied carbon over a life of 5 years of 365 days.
EMBODIED_GRAMS = 26356.568
LIFETIME_SECONDS = 5 * 365 * 24 * 3600
EMBODIED_G_PER_SECOND = EMBODIED_GRAMS / LIFETIME_SECONDS

Number = TypeVar("Number", float, NDArray[np.float64])


def footprint_grams(
    energy_joules: Number,
    latency_seconds: Number,
    intensity_g_per_kwh: Number,
    *,
    pue: float = 1.0,
    embodied_g_per_second: float = EMBODIED_G_PER_SECOND,
) -> Number:
    """gCO2e of a request: C = I * PUE * E + k1 * T (SPROUT equation 1; SCI, ISO/IEC 21031).

    Args:
        energy_joules: E, J.
        latency_seconds: T, s of the device's time.
        intensity_g_per_kwh: I, gCO2e/kWh.
        pue: power usage effectiveness of the site, >= 1.
        embodied_g_per_second: k1, the device's manufacturing carbon per second of its life.
    """
    operational = intensity_g_per_kwh * pue * energy_joules / JOULES_PER_KWH
    return operational + embodied_g_per_second * latency_seconds
