"""Carbon footprint of requests: operational + embodied carbon (SCI, ISO/IEC 21031)."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from envs.arrays import Float64Array
from envs.carbon.hardware import Hardware
from envs.errors import ConfigError
from envs.plausible import warn_watts

JOULES_PER_KWH = 3.6e6
YEAR_SECONDS = 365 * 24 * 3600
# SPROUT (Li et al., EMNLP 2024), section 3 and its artifact: one A100 server's
# embodied carbon over a life of 5 years of 365 days.
EMBODIED_GRAMS = 26356.568
LIFETIME_SECONDS = 5 * YEAR_SECONDS
EMBODIED_G_PER_SECOND = EMBODIED_GRAMS / LIFETIME_SECONDS

Number = TypeVar("Number", float, Float64Array)


@dataclass(frozen=True)
class FootprintModel:
    """Site parameters that turn a request's joules and seconds into emissions.

    The grid's intensity is not part of the model, because it changes over time.

    Attributes:
        pue: power usage effectiveness of the site, 1 or more.
        embodied_grams: emissions from making all serving devices together, gCO2e.
        life_seconds: life over which the embodied emissions are spread, s (SCI's EL).
        reserved_ratio: fraction of the devices reserved for this service (SCI's RR / ToR).
        source: origin of the figures.
    """

    pue: float = 1.0
    embodied_grams: float = EMBODIED_GRAMS
    life_seconds: float = LIFETIME_SECONDS
    reserved_ratio: float = 1.0
    source: str = "SPROUT: one A100 server over 5 years"

    def __post_init__(self) -> None:
        valid = self.pue >= 1 and self.embodied_grams >= 0 and self.life_seconds > 0
        if not (valid and 0 < self.reserved_ratio <= 1):
            raise ConfigError(
                f"site {self}: give a PUE of 1 or more, embodied grams of 0 or more, a life above "
                "0, and a reserved share above 0 and up to 1"
            )

    @property
    def embodied_g_per_second(self) -> float:
        """Embodied emissions per second of device time, gCO2e/s: TE x RS / EL."""
        return self.embodied_grams * self.reserved_ratio / self.life_seconds

    def grams(self, energy_joules: Number, device_seconds: Number, g_per_kwh: Number) -> Number:
        """Return the footprint of requests at this site, gCO2e, by `footprint_grams`."""
        return footprint_grams(
            energy_joules,
            device_seconds,
            g_per_kwh,
            pue=self.pue,
            embodied_g_per_second=self.embodied_g_per_second,
        )


def make_footprint_model(
    device: Hardware, count: int = 1, *, pue: float, life_years: float, reserved_ratio: float = 1.0
) -> FootprintModel:
    """Return the model of a site with `count` devices, each with its share of a server."""
    return FootprintModel(
        pue,
        count * device.embodied_grams,
        life_years * YEAR_SECONDS,
        reserved_ratio,
        f"{count} x {device.title} with its share of a server over {life_years:g} years",
    )


def footprint_grams(
    energy_joules: Number,
    latency_seconds: Number,
    intensity_g_per_kwh: Number,
    *,
    pue: float = 1.0,
    embodied_g_per_second: float = EMBODIED_G_PER_SECOND,
) -> Number:
    """Return a request's gCO2e: C = I * PUE * E + k1 * T (SPROUT equation 1; SCI, ISO/IEC 21031).

    SCI = (O + M) per R, with O = E * I and M = TE * (TiR / EL) * (RR / ToR).

    Args:
        energy_joules: E, J.
        latency_seconds: T, device time, s (SCI's TiR).
        intensity_g_per_kwh: I, location-based intensity without offsets, gCO2e/kWh.
        pue: power usage effectiveness of the site, >= 1.
        embodied_g_per_second: k1, the device's manufacturing carbon per second of its life.

    Warns:
        `envs.plausible.UnitWarning`: joules and seconds imply an absurd power.
    """
    joules, seconds = _total(energy_joules), _total(latency_seconds)
    if joules and seconds > 0:
        warn_watts(joules, seconds, "footprint")
    operational = intensity_g_per_kwh * pue * energy_joules / JOULES_PER_KWH
    return operational + embodied_g_per_second * latency_seconds


def _total(value: float | Float64Array) -> float:
    return float(value) if isinstance(value, int | float) else float(np.sum(value))


def per_functional_unit(
    grams: float, requests: int, tokens: float, correct: float | None
) -> dict[str, float]:
    """Return SCI per functional unit R: gCO2e per request, 1,000 generated tokens, correct answer.

    A unit with a count of 0 is left out.

    Args:
        grams: total footprint, gCO2e.
        requests: number of requests.
        tokens: number of generated tokens.
        correct: number of correct answers; None if unknown.
    """
    units = {
        "request": float(requests),
        "1k_generated_tokens": tokens / 1000,
        "correct_answer": correct or 0.0,
    }
    return {f"grams_per_{name}": grams / count for name, count in units.items() if count > 0}
