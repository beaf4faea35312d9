"""The context of requests at the time they are sent: load, prices, carbon intensity and time."""

from dataclasses import dataclass

from envs.arrays import AnyArray


@dataclass(frozen=True, slots=True)
class Moment:
    """Context of n requests; every array has shape (n,), and a number is for all of them.

    Attributes:
        in_flight: number of other requests at the server.
        g_per_kwh: carbon intensity of the grid, gCO2e/kWh.
        recent_place: position of the intensity in the trailing 24 hours' range, 0 (lowest) to 1.
        coming_place: share of the next 24 hours that are cleaner, 0..1.
        time: when the request is sent, Unix seconds.
        log_price: logarithm of the price of the request's quality (`envs.outcomes.prices`); 0 if
            none is shown.
        log_latency_price: the same of its latency.
    """

    in_flight: AnyArray
    g_per_kwh: AnyArray
    recent_place: AnyArray
    coming_place: AnyArray
    time: AnyArray
    log_price: AnyArray | float = 0.0
    log_latency_price: AnyArray | float = 0.0
