"""Marginal carbon intensity from WattTime, API v3 (https://docs.watttime.org)."""

import time
from typing import Any
from urllib.parse import urlencode

from envs.carbon.intensity import Kind
from envs.carbon.live.source import MalformedError, Point, iso_utc, parse_json, point, rows_of
from envs.http_client import Fetcher, FetchError, basic_auth

URL = "https://api.watttime.org"
USER_VARIABLE, PASSWORD_VARIABLE = "SPROUT_WATTTIME_USER", "SPROUT_WATTTIME_PASSWORD"
SIGNAL, UNITS = "co2_moer", "lbs_co2_per_mwh"
# Avoirdupois pounds (exactly 0.45359237 kg) per MWh, in g per kWh.
G_PER_KWH_OF_LB_PER_MWH = 0.45359237
PERIOD_SECONDS = 300.0
# Tokens last 30 minutes; each is renewed before that.
TOKEN_SECONDS = 25 * 60.0


class WattTime:
    """Marginal operating emissions rate of a region by five minutes.

    The rate is the emissions of one more kWh. It must not be compared with an average intensity.

    Args:
        zone: WattTime's name for the region.
        user, password: secret login.
        url: base URL of the service.
    """

    name = "WattTime"
    live_seconds = 3 * PERIOD_SECONDS

    def __init__(self, zone: str, user: str, password: str, url: str = URL) -> None:
        self.zone = zone
        self.kind = Kind("marginal", "direct")
        self._login = {"Authorization": basic_auth(user, password)}
        self._url = url.rstrip("/")
        self._fetcher = Fetcher()
        # The token and the time (monotonic, s) at which it is renewed.
        self._token: tuple[str, float] | None = None

    def readings(self, since: float, now: float) -> list[Point]:
        """Return the region's historical rates, as in `Source.readings`."""
        where, answer = self._get(
            "historical", start=iso_utc(since), end=iso_utc(now), include_imputed_marker="true"
        )
        return [
            self._point(where, row, "estimated" if row.get("imputed_data_used") else "measured")
            for row in rows_of(where, answer, "data")
            if row.get("value") is not None
        ]

    def forecast(self, now: float) -> list[Point]:
        """Return the forecast of the coming 24 hours, as in `Source.forecast`."""
        where, answer = self._get("forecast", horizon_hours="24")
        return [self._point(where, row, "forecast") for row in rows_of(where, answer, "data")]

    def _get(self, endpoint: str, **parameters: str) -> tuple[str, Any]:
        """Return the URL without secrets, for messages, and the answer, whose meta is checked."""
        url = f"{self._url}/v3/{endpoint}"
        query = urlencode({"region": self.zone, "signal_type": SIGNAL, **parameters})
        try:
            body = self._fetcher.get(f"{url}?{query}", self._bearer())
        except FetchError as error:
            if error.status != 401:
                raise
            # The token has expired: log in again.
            self._token = None
            body = self._fetcher.get(f"{url}?{query}", self._bearer())
        where = self._fetcher.shown(url)
        answer = parse_json(where, body)
        meta = answer.get("meta") if isinstance(answer, dict) else None
        if not isinstance(meta, dict):
            raise MalformedError(f"{where}: the answer has no meta")
        required = {"region": self.zone, "signal_type": SIGNAL, "units": UNITS}
        for key, value in required.items():
            if meta.get(key) != value:
                actual = str(meta.get(key))[:40]
                raise MalformedError(f"{where}: {key} is {actual}, not {value}")
        return self._fetcher.shown(url), answer

    def _bearer(self) -> dict[str, str]:
        """Return the authorization header, with a new token if the current one is old."""
        if self._token is None or time.monotonic() > self._token[1]:
            url = f"{self._url}/login"
            where = self._fetcher.shown(url)
            answer = parse_json(where, self._fetcher.get(url, self._login))
            token = answer.get("token") if isinstance(answer, dict) else None
            if not isinstance(token, str):
                raise MalformedError(f"{where}: the answer has no token")
            self._token = token, time.monotonic() + TOKEN_SECONDS
        return {"Authorization": f"Bearer {self._token[0]}"}

    def _point(self, where: str, row: Any, method: str) -> Point:
        value, scale = row.get("value"), G_PER_KWH_OF_LB_PER_MWH
        return point(where, row.get("point_time"), PERIOD_SECONDS, value, method, scale)
