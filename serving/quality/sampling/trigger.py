"""Decides when waiting samples are judged: in clean hours, while the server has time."""

import math
from collections import deque
from typing import Literal

from envs.carbon.clean_hours import is_cleanest_hour, is_sprout_hour, seasonal_naive

Hours = Literal["sprout", "forecast", "any"]
HOUR_SECONDS = 3600.0
# Hours whose mean intensity counts as the present level: a week.
TRAILING_HOURS = 168


class Trigger:
    """Decides by the hourly carbon intensity that it has been shown.

    Args:
        hours: "sprout" fires as SPROUT's evaluator does, with the mean of the last week instead of
            one that is known only in hindsight; "forecast" fires in the hour that is forecast to
            be the cleanest for as long as the samples may wait; "any" does not look at the grid.
        delay_seconds: longest time that a sample may wait, s.
        busy: requests in flight from which on the server is busy.
    """

    def __init__(self, hours: Hours, delay_seconds: float, busy: int) -> None:
        self._hours = hours
        self._delay = delay_seconds
        self._busy = busy
        self._past: deque[float] = deque(maxlen=TRAILING_HOURS)
        self._hour: int | None = None
        self._last_fired: int | None = None

    def saw(self, time: float, g_per_kwh: float) -> None:
        """Note the carbon intensity at a time of the grid, Unix seconds; the hour's last counts."""
        hour = int(time // HOUR_SECONDS)
        if self._hour is None or not 0 <= hour - self._hour <= TRAILING_HOURS:
            self._past.clear()
            self._hour = hour - 1
            self._last_fired = hour
        # Hours that nobody saw are taken to be like the last one.
        for _ in range(hour - self._hour - 1):
            self._past.append(self._past[-1])
        if hour == self._hour:
            self._past[-1] = g_per_kwh
        else:
            self._past.append(g_per_kwh)
        self._hour = hour

    def due(self, waited_seconds: float, in_flight: int) -> bool:
        """Return whether samples are to be judged now.

        Args:
            waited_seconds: age of the oldest waiting sample, s.
            in_flight: requests at the server.
        """
        if waited_seconds >= self._delay:
            return True
        if in_flight >= self._busy:
            return False
        return self._hours == "any" or self._clean(waited_seconds)

    def _clean(self, waited_seconds: float) -> bool:
        if self._hour is None or self._last_fired is None:
            return False
        past = list(self._past)
        if self._hours == "forecast":
            left = math.ceil((self._delay - waited_seconds) / HOUR_SECONDS)
            coming = seasonal_naive(past, left)
            return bool(coming) and is_cleanest_hour(past[-1], coming)
        if self._hour == self._last_fired and len(past) > 1:
            # The rest of the hour in which it fired.
            return True
        waited_hours = self._hour - self._last_fired
        fires = len(past) > 2 and is_sprout_hour(past[-3:], sum(past) / len(past), waited_hours)
        if fires:
            self._last_fired = self._hour
        return fires
