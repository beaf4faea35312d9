"""A Carbon Aware SDK endpoint (Green Software Foundation,
https://carbon-aware-sdk.greensoftware.foundation).
"""

import re
from typing import Any
from urllib.parse import urlencode

from envs.carbon.intensity import Kind
from envs.carbon.live.source import MalformedError, Point, iso_utc, parse_json, point, rows_of
from envs.http_client import Fetcher

_SPAN = re.compile(r"(?:(\d+)\.)?(\d{2}):(\d{2}):(\d{2})(?:\.\d+)?")
# Where an answer does not say for how long a value holds.
PERIOD_SECONDS = 300.0


class CarbonAware:
    """Ratings of a location, in gCO2e/kWh, from whatever the endpoint stands on.

    Args:
        kind: what it stands on gives; its answers do not say.
    """

    name = "Carbon Aware SDK"
    live_seconds = 3600.0

    def __init__(self, zone: str, kind: Kind, url: str) -> None:
        self.zone = zone
        self.kind = kind
        self._url = url.rstrip("/")
        self._fetcher = Fetcher()

    def readings(self, since: float, now: float) -> list[Point]:
        """See `Source`."""
        asked = {"location": self.zone, "time": iso_utc(since), "toTime": iso_utc(now)}
        where, answer = self._ask("/emissions/bylocation", **asked)
        return [
            point(where, row.get("time"), _seconds(row), row.get("rating"), "measured")
            for row in rows_of(where, answer)
            if row.get("rating") is not None
        ]

    def forecast(self, now: float) -> list[Point]:
        """See `Source`."""
        where, answer = self._ask("/emissions/forecasts/current", location=self.zone)
        return [
            point(where, row.get("timestamp"), _seconds(row), row.get("value"), "forecast")
            for forecast in rows_of(where, answer)
            for row in rows_of(where, forecast, "forecastData")
            if row.get("value") is not None
        ]

    def _ask(self, path: str, **asked: str) -> tuple[str, Any]:
        url = self._url + path
        body = self._fetcher.get(f"{url}?{urlencode(asked)}")
        # 204 where it knows nothing of that time.
        where = self._fetcher.shown(url)
        return where, parse_json(where, body) if body else []


def _seconds(row: Any) -> float:
    """How long a row holds: minutes as a number, or a .NET TimeSpan."""
    given = row.get("duration")
    if given is None:
        return PERIOD_SECONDS
    if isinstance(given, str) and (found := _SPAN.fullmatch(given)):
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        lasts = 86400.0 * days + 3600 * hours + 60 * minutes + seconds
    elif isinstance(given, int | float) and not isinstance(given, bool):
        lasts = 60.0 * given
    else:
        raise MalformedError(f"duration {str(given)[:40]!r} is none")
    return lasts or PERIOD_SECONDS
