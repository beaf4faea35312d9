"""Floors that follow the grid: full quality where it is clean, less where it is dirty."""

from dataclasses import dataclass

import numpy as np

from envs.arrays import Float64Array, Int64Array
from envs.carbon.intensity import IntensityTrace
from envs.errors import ConfigError

BANDS = ("clean", "middling", "dirty")


@dataclass(frozen=True)
class FloorSchedule:
    """How floors yield to the grid's intensity I: floor * (1 - slack * place(I)).

    SPROUT's floor (Li et al., EMNLP 2024) with place(I) = (I - Imin) / (Imax - Imin) and
    slack = xi. A mean over all hours would turn that into one constant floor; so it binds in
    each band of intensities by itself, at the band's mean place.

    Attributes:
        slack: 0 keeps floors constant.
        edges: intensities between the bands, gCO2e/kWh, rising.
        places: mean place in each band, shape (bands,), 0..1.
    """

    slack: float = 0.0
    edges: tuple[float, ...] = ()
    places: tuple[float, ...] = (0.0,)

    def names(self, task: str) -> tuple[str, ...]:
        """What a task's constraint is called in each band; the task itself if there is one."""
        if not self.edges:
            return (task,)
        return tuple(f"{task}, {band}" for band in BANDS)

    def band(self, intensity_g_per_kwh: Float64Array) -> Int64Array:
        """The band of each intensity, of its shape."""
        return np.searchsorted(self.edges, intensity_g_per_kwh, side="right").astype(np.int64)

    def floor(self, floor: float, band: int) -> float:
        """A floor in a band."""
        return floor * (1 - self.slack * self.places[band])


CONSTANT_FLOORS = FloorSchedule()


def floor_schedule(trace: IntensityTrace, slack: float) -> FloorSchedule:
    """Floors that yield by `slack` over a trace's range, in thirds of its hours.

    Raises:
        ConfigError: the trace has no three bands.
    """
    if slack == 0:
        return CONSTANT_FLOORS
    intensity = trace.g_per_kwh
    low, high = float(intensity.min()), float(intensity.max())
    edges = tuple(float(edge) for edge in np.quantile(intensity, (1 / 3, 2 / 3)))
    if not low < edges[0] < edges[1] < high:
        raise ConfigError(
            f"floor slack {slack}: a third or more of zone {trace.zone}'s hours are alike, so that "
            "floors have no dirtier and cleaner hours to follow; leave it at 0"
        )
    places = (intensity - low) / (high - low)
    bands = FloorSchedule(slack, edges).band(intensity)
    means = tuple(float(places[bands == band].mean()) for band in range(len(BANDS)))
    return FloorSchedule(slack, edges, means)
