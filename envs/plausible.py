"""Refuses values that no server, grid or site can have: almost always another unit.

The bounds are beyond what is known to exist, so that nothing true is refused. A kilowatt-hour is
3.6 million joules: one given in place of the other is caught up to 720 J a token and 72 kW.
"""

import warnings

import numpy as np

from envs.arrays import Float64Array
from envs.errors import UnitError

# From a 2 M-parameter model on one core (5 mJ) and to a 405 B one, alone on its servers (some kJ).
LEAST_JOULES_PER_TOKEN, MOST_JOULES_PER_TOKEN = 2e-4, 2e4
# Of all that one meter reads: from a core that is hardly used to a row of racks.
LEAST_WATTS, MOST_WATTS = 0.02, 2e6
# Of an hour: no plant burns dirtier than lignite and oil shale (some 1,300 g/kWh).
MOST_G_PER_KWH = 3000.0
# Of many hours on the whole: in kg/kWh, or lb/kWh, a grid of 1,000 g/kWh would be 1 to 2.2.
LEAST_MEAN_G_PER_KWH = 2.5
_GRAMS = "Give grams per kWh (1 kg/kWh = 1000 g/kWh, 1 lb/MWh = 0.454 g/kWh)"


class UnitWarning(UserWarning):
    """A value is most likely in another unit than the one asked for."""


def check_joules_per_token(joules: float, where: str) -> None:
    """J of a generated token.

    Raises:
        UnitError: it is absurd.
    """
    if not LEAST_JOULES_PER_TOKEN <= joules <= MOST_JOULES_PER_TOKEN:
        raise UnitError(
            f"{where}: {joules:.3g} J per generated token; models take {LEAST_JOULES_PER_TOKEN:g} "
            f"to {MOST_JOULES_PER_TOKEN:g}. Give joules (1 kWh = 3.6e6 J, 1 Wh = 3600 J)"
        )


def check_watts(
    joules: float, seconds: float, where: str, least_watts: float = LEAST_WATTS
) -> None:
    """J used in s.

    Raises:
        UnitError: the power is absurd.
    """
    if not least_watts <= joules / seconds <= MOST_WATTS:
        raise UnitError(
            f"{where}: {joules:.3g} J in {seconds:.3g} s are {joules / seconds:.3g} W; servers "
            f"take {LEAST_WATTS:g} to {MOST_WATTS:g}. Give joules (1 kWh = 3.6e6 J, 1 Wh = 3600 J) "
            "and seconds"
        )


def check_outcomes(
    where: str, tokens: Float64Array, joules: Float64Array, lasted: Float64Array
) -> None:
    """Generated tokens, J and s of requests, each (n,), by the middle one; zeros say nothing.

    Raises:
        UnitError: they can only be in another unit.
    """
    some = joules > 0
    if not some.any():
        return
    check_joules_per_token(float(np.median(joules[some] / np.maximum(1.0, tokens[some]))), where)
    if (timed := some & (lasted > 0)).any():
        check_watts(float(np.median(joules[timed] / lasted[timed])), 1.0, where)


def warn_watts(joules: float, seconds: float, where: str) -> None:
    """As `check_watts`, where a thought experiment may have such figures: a warning."""
    if not LEAST_WATTS <= joules / seconds <= MOST_WATTS:
        # Always the same text: each other one would be kept for good.
        warnings.warn(
            f"{where}: joules and seconds make a power that no server has ({LEAST_WATTS:g} to "
            f"{MOST_WATTS:g} W). Give joules (1 kWh = 3.6e6 J, 1 Wh = 3600 J) and seconds",
            UnitWarning,
            stacklevel=3,
        )


def check_intensity(g_per_kwh: float, where: str) -> None:
    """Carbon intensity of an hour.

    Raises:
        UnitError: it is absurd.
    """
    if not 0 <= g_per_kwh <= MOST_G_PER_KWH:
        raise UnitError(
            f"{where}: {g_per_kwh:.3g} gCO2e/kWh; grids have 0 to {MOST_G_PER_KWH:g}. {_GRAMS}"
        )


def check_mean_intensity(g_per_kwh: float, where: str) -> None:
    """Mean carbon intensity of many hours; warns (`UnitWarning`) of one that few grids have."""
    if g_per_kwh < LEAST_MEAN_G_PER_KWH:
        warnings.warn(
            f"{where}: {g_per_kwh:.3g} gCO2e/kWh on the whole is right for grids of water power "
            f"alone; if this is another, it is in another unit. {_GRAMS}",
            UnitWarning,
            stacklevel=2,
        )
