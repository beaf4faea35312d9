"""When to do work that can wait: in hours in which the grid is clean.

SPROUT's rule for its evaluator (Li et al., EMNLP 2024, section 3.4,
https://aclanthology.org/2024.emnlp-main.1215), and a rule that uses a forecast.
"""

import math
from collections.abc import Sequence

# Exponential growth rate of the urgency, 1/h.
URGENCY_PER_HOUR = 0.029
# Least and most hours between evaluations.
GRACE_HOURS = 7
LIMIT_HOURS = 72
DAY_HOURS = 24


def is_sprout_hour(recent: Sequence[float], mean: float, waited_hours: int) -> bool:
    """Return whether SPROUT's evaluator fires in the last of three hours.

    Let a(t) = I(t) exp(0.029 (t - t_last)), where t_last is the last evaluation. It fires at a
    local minimum of `a` (the previous step was not upwards, the current one is not downwards) if
    the intensity is at most the mean and 7 hours have passed. It also fires after 72 hours.

    Args:
        recent: intensity of the last three hours, oldest first, gCO2e/kWh.
        mean: the mean that the intensity is compared with, gCO2e/kWh. SPROUT takes that of the
            whole window, which is known only in hindsight; live it is that of the past.
        waited_hours: hours since the last evaluation.
    """
    if waited_hours >= LIMIT_HOURS:
        return True
    # The common factor exp(-0.029 t_last) changes no comparison.
    urgency = [value * math.exp(URGENCY_PER_HOUR * hour) for hour, value in enumerate(recent)]
    trough = urgency[1] <= urgency[0] and urgency[2] >= urgency[1]
    return trough and recent[2] <= mean and waited_hours >= GRACE_HOURS


def is_cleanest_hour(now: float, coming: Sequence[float]) -> bool:
    """Return whether no coming hour is forecast to be cleaner.

    Args:
        now: intensity of this hour, gCO2e/kWh.
        coming: forecast of the hours for which the work can wait, gCO2e/kWh.
    """
    return all(now <= value for value in coming)


def seasonal_naive(past: Sequence[float], hours: int) -> list[float]:
    """Return a forecast of the coming hours: each as the same hour of the last known day.

    Args:
        past: intensity of past hours, this one included, oldest first, gCO2e/kWh. With less than a
            day of them there is no forecast, and the list is empty.
        hours: number of hours to forecast.
    """
    if len(past) < DAY_HOURS:
        return []
    day = past[-DAY_HOURS:]
    return [day[hour % DAY_HOURS] for hour in range(hours)]
