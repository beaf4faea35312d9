"""Carbon intensity of Great Britain from the Carbon Intensity API
(https://carbon-intensity.github.io/api-definitions).
"""

from typing import Any

from envs.carbon.intensity import Kind, iso
from envs.carbon.live.source import MalformedError, Point, parse_json, point, rows_of
from envs.errors import ConfigError
from envs.http_client import Fetcher

URL = "https://api.carbonintensity.org.uk"
PERIOD_SECONDS = 1800.0
REGIONS = 17


class CarbonIntensityUk:
    """Average direct intensity of Great Britain by half hours, or the forecast of a region.

    The service counts wind, solar and nuclear power as 0, so its figures are the direct emissions
    of running plants.

    Args:
        zone: "GB", or "GB-1" to "GB-17" for a region; regions have no measured values.
        url: base URL of the service.

    Raises:
        ConfigError: the zone is unknown.
    """

    name = "Carbon Intensity API (GB)"
    # The service publishes a half hour's value some minutes after its end.
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
        """Return readings as in `Source.readings`; empty for a region."""
        if self._region:
            return []
        url = f"{self._url}/intensity/{iso(since)}/{iso(now)}"
        where, answer = self._get(url)
        return [
            point(where, row.get("from"), PERIOD_SECONDS, actual, "measured")
            for row in rows_of(where, answer, "data")
            if (actual := _intensity(where, row, "actual")) is not None
        ]

    def forecast(self, now: float) -> list[Point]:
        """Return the forecast of the coming 24 hours, as in `Source.forecast`."""
        regional = f"/regional/intensity/{iso(now)}/fw24h/regionid/{self._region}"
        path = regional if self._region else f"/intensity/{iso(now)}/fw24h"
        url = self._url + path
        where, answer = self._get(url)
        if self._region:
            inner = answer.get("data") if isinstance(answer, dict) else None
            # The data are an object in some answers, and a list of one object in others.
            answer = inner[0] if isinstance(inner, list) and inner else inner
        return [
            point(
                where,
                row.get("from"),
                PERIOD_SECONDS,
                _intensity(where, row, "forecast"),
                "forecast",
            )
            for row in rows_of(where, answer, "data")
            if _intensity(where, row, "forecast") is not None
        ]

    def _get(self, url: str) -> tuple[str, Any]:
        """Return the URL without secrets, for messages, and the parsed answer."""
        where = self._fetcher.shown(url)
        return where, parse_json(where, self._fetcher.get(url, {"Accept": "application/json"}))


def _intensity(where: str, row: Any, name: str) -> Any:
    """Return a row's "actual" or "forecast" intensity; None if the service has no value."""
    intensity = row.get("intensity")
    if intensity is None:
        return None
    if not isinstance(intensity, dict):
        raise MalformedError(f"{where}: a row has no intensity")
    return intensity.get(name)
