"""A constant carbon intensity that an operator states, for those who want energy only."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from envs.carbon.intensity import (
    HOUR_SECONDS,
    UNKNOWN_PLACE,
    CarbonReading,
    IntensityTrace,
    Kind,
)
from envs.csv_file import read_number
from envs.plausible import check_intensity

ZONE = "CONSTANT"
_YEAR_HOURS = 8760
# Start of the constant trace, Unix seconds: 2024-01-01 UTC.
_START = 1_704_067_200.0


@dataclass(frozen=True)
class ConstantIntensity:
    """The same intensity at all times.

    Attributes:
        g_per_kwh: intensity, gCO2e/kWh.
        kind: kind of the figure.
    """

    g_per_kwh: float
    kind: Kind

    @property
    def mean_g_per_kwh(self) -> float:
        """Mean intensity, gCO2e/kWh."""
        return self.g_per_kwh

    def reading(self, now: float, max_age_seconds: float) -> CarbonReading:
        """Return the intensity, as of now."""
        hour = now - now % HOUR_SECONDS
        kind = self.kind.signal, self.kind.scope
        return CarbonReading(
            self.g_per_kwh, hour, 0.0, ZONE, *kind, "stated", "--intensity", "constant"
        )

    def places(self, reading: CarbonReading) -> tuple[float, float]:
        """Return the places of a reading that has no others to be compared with."""
        return UNKNOWN_PLACE, UNKNOWN_PLACE


def stated_intensity(text: str | Path) -> float | None:
    """Return the number of gCO2e/kWh that is given in place of a file; None if it is a file.

    Raises:
        UnitError: no grid has such an intensity.
    """
    try:
        value = read_number(str(text))
        if Path(text).exists():
            return None
    except (OSError, ValueError):
        return None
    check_intensity(value, f"--intensity {text}")
    return value


def constant_trace(g_per_kwh: float) -> IntensityTrace:
    """Return a year of one intensity, gCO2e/kWh."""
    return IntensityTrace(
        zone=ZONE,
        start=_START,
        g_per_kwh=np.full(_YEAR_HOURS, g_per_kwh),
        methods=np.full(_YEAR_HOURS, "stated"),
        source=f"--intensity {g_per_kwh:g}",
    )
