"""WattTime, API v3 (https://docs.watttime.org): marginal intensity."""

import time
from typing import Any
from urllib.parse import urlencode

from envs.carbon.intensity import Kind
from envs.carbon.live.source import MalformedError, Point, iso_utc, parse_json, point, rows_of
from envs.http_client import Fetcher, FetchError, basic_auth

URL = "https://api.watttime.org"
USER_VARIABLE, PASSWORD_VARIABLE = "SPROUT_WATTTIME_USER", "SPROUT_WATTTIME_PASSWORD"
SIGNAL, UNITS = "co2_moer", "lbs_co2_per_mwh"
# Avoirdupois pounds (exactly 0.45359237 kg) a MWh, in g a kWh.
G_PER_KWH_OF_LB_PER_MWH = 0.45359237
PERIOD_SECONDS = 300.0
# Tokens last 30 minutes.
TOKEN_SECONDS = 25 * 60.0


class WattTime:
    """Marginal operating emissions rate of a region, by five minutes.

    What it gives is what one more kWh emits, which is no part of an average and must not be
    compared with one.
    """

    name = "WattTime"
    live_seconds = 3 * PERIOD_SECONDS

    def __init__(self, zone: str, user: str, password: str, url: str = URL) -> None:
        self.zone = zone
        self.kind = Kind("marginal", "direct")
        self._login = {"Authorization": basic_auth(user, password)}
        self._url = url.rstrip("/")
        self._fetcher = Fetcher()
        self._token: tuple[str, float] | None = None

    def readings(self, since: float, now: float) -> list[Point]:
        """See `Source`."""
        where, answer = self._ask(
            "historical", start=iso_utc(since), end=iso_utc(now), include_imputed_marker="true"
        )
        return [
            self._point(where, row, "estimated" if row.get("imputed_data_used") else "measured")
            for row in rows_of(where, answer, "data")
            if row.get("value") is not None
        ]

    def forecast(self, now: float) -> list[Point]:
        """See `Source`."""
        where, answer = self._ask("forecast", horizon_hours="24")
        return [self._point(where, row, "forecast") for row in rows_of(where, answer, "data")]

    def _ask(self, what: str, **asked: str) -> tuple[str, Any]:
        url = f"{self._url}/v3/{what}"
        query = urlencode({"region": self.zone, "signal_type": SIGNAL, **asked})
        try:
            body = self._fetcher.get(f"{url}?{query}", self._bearer())
        except FetchError as error:
            if error.status != 401:
                raise
            # The token has expired.
            self._token = None
            body = self._fetcher.get(f"{url}?{query}", self._bearer())
        where = self._fetcher.shown(url)
        answer = parse_json(where, body)
        meta = answer.get("meta") if isinstance(answer, dict) else None
        if not isinstance(meta, dict):
            raise MalformedError(f"{where}: the answer has no meta")
        told = {"region": self.zone, "signal_type": SIGNAL, "units": UNITS}
        for key, right in told.items():
            if meta.get(key) != right:
                found = str(meta.get(key))[:40]
                raise MalformedError(f"{where}: {key} is {found}, not {right}")
        return self._fetcher.shown(url), answer

    def _bearer(self) -> dict[str, str]:
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
