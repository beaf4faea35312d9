"""The context of requests when they are sent: load, carbon intensity and time."""

from dataclasses import dataclass

from envs.arrays import AnyArray


@dataclass(frozen=True, slots=True)
class Moment:
    """Context of n requests; every array has shape (n,).

    Attributes:
        in_flight: other requests at the server.
        g_per_kwh: carbon intensity of the grid.
        recent_place: place of the intensity in the range of the trailing day, 0..1.
        coming_place: share of the coming day's hours that are cleaner, 0..1.
        time: Unix seconds.
    """

    in_flight: AnyArray
    g_per_kwh: AnyArray
    recent_place: AnyArray
    coming_place: AnyArray
    time: AnyArray
