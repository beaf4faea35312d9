"""Plausibility checks: refuse values so extreme that they must be in another unit.

The bounds lie outside everything known to exist, so no true value is refused. A kilowatt-hour
is 3.6 million joules: kWh given in place of J are caught up to 720 J per token and 72 kW.
"""

import warnings

import numpy as np

from envs.arrays import Float64Array
from envs.errors import UnitError

# A 2 M-parameter model on one core takes 5 mJ; a 405 B model, alone on its servers, some kJ.
LEAST_JOULES_PER_TOKEN, MOST_JOULES_PER_TOKEN = 2e-4, 2e4
# Total power of everything that one meter reads: from a nearly idle core to a row of racks.
LEAST_WATTS, MOST_WATTS = 0.02, 2e6
# Upper bound for one hour: the dirtiest plants, lignite and oil shale, emit some 1,300 g/kWh.
MOST_G_PER_KWH = 3000.0
# Lower bound for a mean over many hours: a grid of 1,000 g/kWh would show as 1 to 2.2 if it
# were given in kg/kWh or lb/kWh.
LEAST_MEAN_G_PER_KWH = 2.5
_GRAMS = "Give grams per kWh (1 kg/kWh = 1000 g/kWh, 1 lb/MWh = 0.454 g/kWh)"


class UnitWarning(UserWarning):
    """A value is most likely in another unit than the expected one."""


def check_joules_per_token(joules: float, source: str) -> None:
    """Check the energy of one generated token, J.

    Args:
        source: file, flag or field that the value comes from; it begins the error message.

    Raises:
        UnitError: no model takes so little or so much.
    """
    if not LEAST_JOULES_PER_TOKEN <= joules <= MOST_JOULES_PER_TOKEN:
        raise UnitError(
            f"{source}: {joules:.3g} J per generated token; models take {LEAST_JOULES_PER_TOKEN:g} "
            f"to {MOST_JOULES_PER_TOKEN:g}. Give joules (1 kWh = 3.6e6 J, 1 Wh = 3600 J)"
        )


def check_watts(
    joules: float, seconds: float, source: str, least_watts: float = LEAST_WATTS
) -> None:
    """Check the mean power of `joules` used in `seconds`.

    Raises:
        UnitError: no server has so low or so high a power.
    """
    if not least_watts <= joules / seconds <= MOST_WATTS:
        raise UnitError(
            f"{source}: {joules:.3g} J in {seconds:.3g} s are {joules / seconds:.3g} W; servers "
            f"take {LEAST_WATTS:g} to {MOST_WATTS:g}. Give joules (1 kWh = 3.6e6 J, 1 Wh = 3600 J) "
            "and seconds"
        )


def check_outcomes(
    source: str,
    tokens: Float64Array,
    joules: Float64Array,
    seconds: Float64Array,
    least_watts: float = LEAST_WATTS,
) -> None:
    """Check requests by their median J per token and median power.

    Requests with 0 J or 0 s are left out: zeros give no hint of the unit.

    Args:
        tokens: generated tokens, shape (n,).
        joules: J, shape (n,).
        seconds: latency, s, shape (n,).
        least_watts: least power; 0 for shares of a server's joules and for estimates, which have
            no least power: on a busy machine a request waits without using energy.

    Raises:
        UnitError: the energies or latencies must be in another unit.
    """
    with_energy = joules > 0
    if not with_energy.any():
        return
    per_token = joules[with_energy] / np.maximum(1.0, tokens[with_energy])
    check_joules_per_token(float(np.median(per_token)), source)
    if (timed := with_energy & (seconds > 0)).any():
        watts = float(np.median(joules[timed] / seconds[timed]))
        check_watts(watts, 1.0, source, least_watts)


def warn_watts(joules: float, seconds: float, source: str) -> None:
    """Warn (`UnitWarning`) of an implausible mean power.

    A hypothetical calculation may have such figures, so this is no error as in `check_watts`.
    """
    if not LEAST_WATTS <= joules / seconds <= MOST_WATTS:
        # The text has no changing values: Python keeps each different warning text for good.
        warnings.warn(
            f"{source}: joules and seconds make a power that no server has ({LEAST_WATTS:g} to "
            f"{MOST_WATTS:g} W). Give joules (1 kWh = 3.6e6 J, 1 Wh = 3600 J) and seconds",
            UnitWarning,
            stacklevel=3,
        )


def check_intensity(g_per_kwh: float, source: str) -> None:
    """Check the carbon intensity of one hour, gCO2e/kWh.

    Raises:
        UnitError: no grid has such an intensity.
    """
    if not 0 <= g_per_kwh <= MOST_G_PER_KWH:
        raise UnitError(
            f"{source}: {g_per_kwh:.3g} gCO2e/kWh; grids have 0 to {MOST_G_PER_KWH:g}. {_GRAMS}"
        )


def check_mean_intensity(g_per_kwh: float, source: str) -> None:
    """Warn (`UnitWarning`) if the mean intensity of many hours, gCO2e/kWh, is unusually low."""
    if g_per_kwh < LEAST_MEAN_G_PER_KWH:
        warnings.warn(
            f"{source}: a mean of {g_per_kwh:.3g} gCO2e/kWh is right only for grids that run on "
            f"hydropower alone; on any other grid the value is in another unit. {_GRAMS}",
            UnitWarning,
            stacklevel=2,
        )
