"""Electricity Maps, API v3 (https://app.electricitymaps.com/docs)."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

from envs.carbon.intensity import HOUR_SECONDS, Kind
from envs.carbon.live.source import MalformedError, Point, parse_json, point, rows_of
from envs.http_client import Fetcher, FetchError

URL = "https://api.electricitymaps.com"
TOKEN_VARIABLE = "SPROUT_ELECTRICITY_MAPS_TOKEN"  # noqa: S105


class ElectricityMaps:
    """Average intensity, hourly; direct or over the plants' life, as asked.

    Where a service is not told a zone, or knows none by the name, it may answer for the place
    that the question came from. So that is asked not to be done, and the answer's zone and
    kind are compared with what was asked for.
    """

    name = "Electricity Maps"
    live_seconds = 2 * HOUR_SECONDS

    def __init__(self, zone: str, scope: str, token: str, url: str = URL) -> None:
        self.zone = zone
        self.kind = Kind("average", scope)
        self._token = token
        self._url = url.rstrip("/")
        self._fetcher = Fetcher()

    def readings(self, since: float, now: float) -> list[Point]:
        """See `Source`; the service keeps the last 24 hours at hand."""
        where, answer = self._ask("latest")
        latest = self._point(where, answer)
        if latest.start <= since:
            return [latest]
        # What is known of the present must not wait for the past; that is asked for again.
        with suppress(FetchError):
            where, answer = self._ask("history")
            rows = [row for row in rows_of(where, answer, "history") if _has_value(row)]
            past = [self._point(where, row) for row in rows]
            return [*(p for p in past if p.start >= since), latest]
        return [latest]

    def forecast(self, now: float) -> list[Point]:
        """See `Source`."""
        where, answer = self._ask("forecast")
        self._check(where, answer, whole=False)
        return [
            point(where, row.get("datetime"), HOUR_SECONDS, row.get("carbonIntensity"), "forecast")
            for row in rows_of(where, answer, "forecast")
            if _has_value(row)
        ]

    def _ask(self, what: str) -> tuple[str, Any]:
        asked = {
            "zone": self.zone,
            "emissionFactorType": self.kind.scope,
            "disableCallerLookup": "true",
        }
        url = f"{self._url}/v3/carbon-intensity/{what}"
        body = self._fetcher.get(f"{url}?{urlencode(asked)}", {"auth-token": self._token})
        where = self._fetcher.shown(url)
        return where, parse_json(where, body)

    def _point(self, where: str, row: Any) -> Point:
        self._check(where, row, whole=True)
        method = "estimated" if row.get("isEstimated") else "measured"
        return point(where, row.get("datetime"), HOUR_SECONDS, row.get("carbonIntensity"), method)

    def _check(self, where: str, answer: Any, *, whole: bool) -> None:
        if not isinstance(answer, Mapping):
            raise MalformedError(f"{where}: the answer is no object")
        if answer.get("zone") != self.zone:
            raise MalformedError(
                f"{where}: asked for zone {self.zone}, answered for {str(answer.get('zone'))[:40]}"
            )
        kind = answer.get("emissionFactorType", None if whole else self.kind.scope)
        if kind != self.kind.scope:
            raise MalformedError(f"{where}: asked for {self.kind.scope}, answered {str(kind)[:40]}")


def _has_value(row: Mapping[str, Any]) -> bool:
    return row.get("carbonIntensity") is not None
