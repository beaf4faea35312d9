"""Carbon intensity from a Carbon Aware SDK endpoint (Green Software Foundation,
https://carbon-aware-sdk.greensoftware.foundation).
"""

import re
from typing import Any
from urllib.parse import urlencode

from envs.carbon.intensity import Kind
from envs.carbon.live.source import MalformedError, Point, iso_utc, parse_json, point, rows_of
from envs.http_client import Fetcher

_TIME_SPAN = re.compile(r"(?:(\d+)\.)?(\d{2}):(\d{2}):(\d{2})(?:\.\d+)?")
# Period of a value whose row does not state one.
PERIOD_SECONDS = 300.0


class CarbonAware:
    """Ratings of a location in gCO2e/kWh, from whichever data source the endpoint uses.

    Args:
        zone: name of the location.
        kind: kind of intensity of the endpoint's data source; the answers do not state it.
        url: base URL of the endpoint.
    """

    name = "Carbon Aware SDK"
    live_seconds = 3600.0

    def __init__(self, zone: str, kind: Kind, url: str) -> None:
        self.zone = zone
        self.kind = kind
        self._url = url.rstrip("/")
        self._fetcher = Fetcher()

    def readings(self, since: float, now: float) -> list[Point]:
        """Return the location's ratings since a time, as in `Source.readings`."""
        parameters = {"location": self.zone, "time": iso_utc(since), "toTime": iso_utc(now)}
        where, answer = self._get("/emissions/bylocation", **parameters)
        return [
            point(where, row.get("time"), _seconds(row), row.get("rating"), "measured")
            for row in rows_of(where, answer)
            if row.get("rating") is not None
        ]

    def forecast(self, now: float) -> list[Point]:
        """Return the location's current forecast, as in `Source.forecast`."""
        where, answer = self._get("/emissions/forecasts/current", location=self.zone)
        return [
            point(where, row.get("timestamp"), _seconds(row), row.get("value"), "forecast")
            for forecast in rows_of(where, answer)
            for row in rows_of(where, forecast, "forecastData")
            if row.get("value") is not None
        ]

    def _get(self, path: str, **parameters: str) -> tuple[str, Any]:
        """Return the URL without secrets, for messages, and the parsed answer."""
        url = self._url + path
        body = self._fetcher.get(f"{url}?{urlencode(parameters)}")
        where = self._fetcher.shown(url)
        # The body is empty (status 204) if the endpoint has no data for that time.
        return where, parse_json(where, body) if body else []


def _seconds(row: Any) -> float:
    """Return a row's duration, s, from a number of minutes or a .NET TimeSpan."""
    duration = row.get("duration")
    if duration is None:
        return PERIOD_SECONDS
    if isinstance(duration, str) and (match := _TIME_SPAN.fullmatch(duration)):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        total_seconds = 86400.0 * days + 3600 * hours + 60 * minutes + seconds
    elif isinstance(duration, int | float) and not isinstance(duration, bool):
        total_seconds = 60.0 * duration
    else:
        raise MalformedError(
            f"duration {str(duration)[:40]!r} is neither a number of minutes nor d.hh:mm:ss"
        )
    return total_seconds or PERIOD_SECONDS
