"""Carbon intensity from Electricity Maps, API v3 (https://app.electricitymaps.com/docs)."""

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
    """Average intensity of a zone by hours, direct or lifecycle.

    Without a zone, or with an unknown one, the service may answer for the caller's own location.
    Each request therefore disables that lookup, and each answer's zone and kind are checked.

    Args:
        zone: the service's name for the zone.
        scope: "direct" or "lifecycle".
        token: secret API token.
        url: base URL of the service.
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
        """Return readings as in `Source.readings`; the service keeps only the last 24 hours."""
        where, answer = self._get("latest")
        latest = self._point(where, answer)
        if latest.start <= since:
            return [latest]
        # A failure of the history must not withhold the present; the next call asks again.
        with suppress(FetchError):
            where, answer = self._get("history")
            rows = [row for row in rows_of(where, answer, "history") if _has_value(row)]
            past = [self._point(where, row) for row in rows]
            return [*(p for p in past if p.start >= since), latest]
        return [latest]

    def forecast(self, now: float) -> list[Point]:
        """Return the zone's forecast, as in `Source.forecast`."""
        where, answer = self._get("forecast")
        self._check(where, answer, scope_required=False)
        return [
            point(where, row.get("datetime"), HOUR_SECONDS, row.get("carbonIntensity"), "forecast")
            for row in rows_of(where, answer, "forecast")
            if _has_value(row)
        ]

    def _get(self, endpoint: str) -> tuple[str, Any]:
        """Return the URL without secrets, for messages, and the parsed answer."""
        parameters = {
            "zone": self.zone,
            "emissionFactorType": self.kind.scope,
            "disableCallerLookup": "true",
        }
        url = f"{self._url}/v3/carbon-intensity/{endpoint}"
        body = self._fetcher.get(f"{url}?{urlencode(parameters)}", {"auth-token": self._token})
        where = self._fetcher.shown(url)
        return where, parse_json(where, body)

    def _point(self, where: str, row: Any) -> Point:
        self._check(where, row, scope_required=True)
        method = "estimated" if row.get("isEstimated") else "measured"
        return point(where, row.get("datetime"), HOUR_SECONDS, row.get("carbonIntensity"), method)

    def _check(self, where: str, answer: Any, *, scope_required: bool) -> None:
        """Raise MalformedError unless the answer is for the requested zone and scope.

        Args:
            scope_required: whether an answer that does not state its scope is refused.
        """
        if not isinstance(answer, Mapping):
            raise MalformedError(f"{where}: the answer is not a JSON object")
        if answer.get("zone") != self.zone:
            raise MalformedError(
                f"{where}: asked for zone {self.zone}, answered for {str(answer.get('zone'))[:40]}"
            )
        default = None if scope_required else self.kind.scope
        scope = answer.get("emissionFactorType", default)
        if scope != self.kind.scope:
            raise MalformedError(
                f"{where}: asked for {self.kind.scope}, answered {str(scope)[:40]}"
            )


def _has_value(row: Mapping[str, Any]) -> bool:
    return row.get("carbonIntensity") is not None
