"""Quality floors that follow the grid: full in clean hours, lower in dirty hours."""

from dataclasses import dataclass

import numpy as np

from envs.arrays import Float64Array, Int64Array
from envs.carbon.intensity import IntensityTrace
from envs.errors import ConfigError

BANDS = ("clean", "middling", "dirty")


def untagged_name(task: str) -> str:
    """Return the name of a task's constraint for requests without a task tag."""
    return f"{task} (untagged)"


@dataclass(frozen=True)
class FloorSchedule:
    """Lowers floors with the grid's intensity I: floor * (1 - slack * place(I)).

    This is SPROUT's floor (Li et al., EMNLP 2024) with place(I) = (I - Imin) / (Imax - Imin)
    and slack = xi. A constraint on the mean over all hours would amount to one constant floor.
    Therefore each band of intensities has a constraint of its own, with the floor at the band's
    mean place.

    Attributes:
        slack: relative reduction of floors at the highest intensity, 0..1; 0 keeps them constant.
        edges: intensities between the bands, gCO2e/kWh, ascending.
        places: mean place of each band, shape (bands,), 0..1.
    """

    slack: float = 0.0
    edges: tuple[float, ...] = ()
    places: tuple[float, ...] = (0.0,)

    def names(self, task: str) -> tuple[str, ...]:
        """Return the names of a task's constraints by band; with one band, the task's name."""
        if not self.edges:
            return (task,)
        return tuple(f"{task}, {band}" for band in BANDS)

    def band(self, intensity_g_per_kwh: Float64Array) -> Int64Array:
        """Return the band index of each intensity, in the shape of the input."""
        return np.searchsorted(self.edges, intensity_g_per_kwh, side="right").astype(np.int64)

    def floor(self, floor: float, band: int) -> float:
        """Return the lowered floor in a band."""
        return floor * (1 - self.slack * self.places[band])


CONSTANT_FLOORS = FloorSchedule()


def floor_schedule(trace: IntensityTrace, slack: float) -> FloorSchedule:
    """Return a schedule that lowers floors by up to `slack` over a trace's intensity range.

    Each of the three bands holds a third of the trace's hours.

    Raises:
        ConfigError: the trace's intensities vary too little for three bands.
    """
    if slack == 0:
        return CONSTANT_FLOORS
    intensity = trace.g_per_kwh
    low, high = float(intensity.min()), float(intensity.max())
    edges = tuple(float(edge) for edge in np.quantile(intensity, (1 / 3, 2 / 3)))
    if not low < edges[0] < edges[1] < high:
        raise ConfigError(
            f"floor slack {slack}: a third or more of zone {trace.zone}'s hours are alike, so "
            "there are no cleaner and dirtier hours for floors to follow; give a slack of 0"
        )
    places = (intensity - low) / (high - low)
    bands = FloorSchedule(slack, edges).band(intensity)
    means = tuple(float(places[bands == band].mean()) for band in range(len(BANDS)))
    return FloorSchedule(slack, edges, means)
