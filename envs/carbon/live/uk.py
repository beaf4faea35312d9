"""Great Britain's Carbon Intensity API (https://carbon-intensity.github.io/api-definitions)."""

from typing import Any

from envs.carbon.intensity import Kind, iso
from envs.carbon.live.source import MalformedError, Point, parse_json, point, rows_of
from envs.errors import ConfigError
from envs.http_client import Fetcher

URL = "https://api.carbonintensity.org.uk"
PERIOD_SECONDS = 1800.0
REGIONS = 17


class CarbonIntensityUk:
    """Average direct intensity by half hours; of Great Britain, or a region's forecast.

    Its factors of wind, sun and nuclear power are 0: what plants emit while they run.

    Args:
        zone: "GB", or "GB-1" to "GB-17" for a region; regions have no measured values.

    Raises:
        ConfigError: no such zone.
    """

    name = "Carbon Intensity API (GB)"
    # The last half hour's value comes some minutes after it has ended.
    live_seconds = 2.5 * PERIOD_SECONDS

    def __init__(self, zone: str = "GB", url: str = URL) -> None:
        nation, _, region = zone.partition("-")
        known = not region or (region.isdigit() and 1 <= int(region) <= REGIONS)
        if nation != "GB" or not known:
            raise ConfigError(f"--zone {zone}: give GB, or GB-1 to GB-{REGIONS} for a region")
        self.zone = zone
        self.kind = Kind("average", "direct")
        self._region = region
        self._url = url.rstrip("/")
        self._fetcher = Fetcher()

    def readings(self, since: float, now: float) -> list[Point]:
        """See `Source`."""
        if self._region:
            return []
        url = f"{self._url}/intensity/{iso(since)}/{iso(now)}"
        where, answer = self._ask(url)
        return [
            point(where, row.get("from"), PERIOD_SECONDS, actual, "measured")
            for row in rows_of(where, answer, "data")
            if (actual := _of(where, row, "actual")) is not None
        ]

    def forecast(self, now: float) -> list[Point]:
        """See `Source`."""
        regional = f"/regional/intensity/{iso(now)}/fw24h/regionid/{self._region}"
        path = regional if self._region else f"/intensity/{iso(now)}/fw24h"
        url = self._url + path
        where, answer = self._ask(url)
        if self._region:
            inner = answer.get("data") if isinstance(answer, dict) else None
            # An object in some answers, a list of one in others.
            answer = inner[0] if isinstance(inner, list) and inner else inner
        return [
            point(where, row.get("from"), PERIOD_SECONDS, _of(where, row, "forecast"), "forecast")
            for row in rows_of(where, answer, "data")
            if _of(where, row, "forecast") is not None
        ]

    def _ask(self, url: str) -> tuple[str, Any]:
        where = self._fetcher.shown(url)
        return where, parse_json(where, self._fetcher.get(url, {"Accept": "application/json"}))


def _of(where: str, row: Any, name: str) -> Any:
    intensity = row.get("intensity")
    if not isinstance(intensity, dict):
        raise MalformedError(f"{where}: a row without intensity")
    return intensity.get(name)
