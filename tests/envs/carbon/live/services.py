"""Fake carbon intensity services with the documented shapes of the real ones, on a made-up grid.

The grid has 100 g/kWh in hour 0 of the day (UTC), 110 in hour 1, and so on. Values of even hours
are marked as estimated. A forecast is 1 g/kWh above the value of its hour.
"""

import base64
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

from envs.carbon.intensity import Kind
from envs.carbon.live.carbon_aware import CarbonAware
from envs.carbon.live.electricity_maps import ElectricityMaps
from envs.carbon.live.uk import CarbonIntensityUk
from envs.carbon.live.watttime import WattTime

HOUR = 3600
SECRET = "hunter2-token"
LB = 0.45359237


def grams(at):
    return 100 + 10 * (int(at) // HOUR % 24)


def iso(at, form="%Y-%m-%dT%H:%M:%S.000Z"):
    return datetime.fromtimestamp(at, UTC).strftime(form)


def stamp(text):
    return datetime.fromisoformat(text).timestamp()


def dumped(content):
    return json.dumps(content).encode()


def electricity_maps_row(at, zone="DE", scope="direct", **changed):
    return {
        "zone": zone,
        "carbonIntensity": grams(at),
        "datetime": iso(at),
        "updatedAt": iso(at + 120),
        "createdAt": iso(at - 86400),
        "emissionFactorType": scope,
        "isEstimated": at // HOUR % 2 == 0,
        "estimationMethod": "TIME_SLICER_AVERAGE" if at // HOUR % 2 == 0 else None,
        **changed,
    }


@dataclass
class Services:
    """All the services at one address.

    Attributes:
        now: present time of the services, Unix seconds.
        fails: (status, body, headers) to answer instead, or a function of the request that
            returns them, by a part of the path.
        missing: hours of the day (UTC) that the answers leave out.
        requested: requested paths with their queries, in order.
        logins: number of WattTime logins.
        expired: True if WattTime's token has expired.
    """

    now: float = field(default_factory=time.time)
    fails: dict = field(default_factory=dict)
    missing: tuple = ()
    requested: list = field(default_factory=list)
    logins: int = 0
    expired: bool = False

    def __call__(self, request):
        self.requested.append(request.path)
        for part, failure in self.fails.items():
            if part in request.path:
                return failure(request) if callable(failure) else failure
        split = urlsplit(request.path)
        query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        return self._answer(split.path, query, request.headers)

    def _hour(self):
        return self.now // HOUR * HOUR

    def _answer(self, path, query, headers):
        if path.startswith("/v3/carbon-intensity/"):
            return self._electricity_maps(path.rsplit("/", 1)[1], query, headers)
        if path == "/login" or path.startswith("/v3/"):
            return self._watttime(path, query, headers)
        if path.startswith(("/intensity", "/regional")):
            return self._uk(path)
        return self._carbon_aware(path, query)

    def _electricity_maps(self, endpoint, query, headers):
        if headers.get("auth-token") != SECRET:
            body = {"error": "Invalid auth-token", "message": "The provided token is invalid."}
            return 401, dumped(body), {}
        zone, scope = query.get("zone"), query.get("emissionFactorType", "lifecycle")
        if zone != "DE":
            if query.get("disableCallerLookup") == "true":
                return 404, dumped({"error": f'No recent data for zone "{zone}"'}), {}
            # As the real service does: another place's intensity, with status 200.
            zone = "US-CAR-DUK"
        hour = self._hour()
        if endpoint == "latest":
            return 200, dumped(electricity_maps_row(hour, zone, scope)), {}
        hours = range(24, -1, -1) if endpoint == "history" else range(0, -25, -1)
        times = [
            hour - HOUR * h for h in hours if (hour - HOUR * h) // HOUR % 24 not in self.missing
        ]
        if endpoint == "history":
            rows = [electricity_maps_row(at, zone, scope) for at in times]
            return 200, dumped({"zone": zone, "history": rows}), {}
        rows = [{"carbonIntensity": grams(at) + 1, "datetime": iso(at)} for at in times]
        return 200, dumped({"zone": zone, "forecast": rows, "updatedAt": iso(hour)}), {}

    def _watttime(self, path, query, headers):
        authorization = headers.get("authorization", "")
        if path == "/login":
            expected = "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()
            if authorization != expected:
                return 403, b"<html>Forbidden</html>", {}
            self.logins += 1
            self.expired = False
            return 200, dumped({"token": f"token-{self.logins}"}), {}
        if self.expired or authorization != f"Bearer token-{self.logins}":
            return 401, dumped({"detail": "Signature has expired"}), {}
        marked = query.get("include_imputed_marker") == "true"
        if path == "/v3/historical":
            first, last = stamp(query["start"]), stamp(query["end"])
            times = range(int(-(-first // 300) * 300), int(min(last, self.now - 300)), 300)
        else:
            times = range(int(self.now // 300 * 300), int(self.now) + 86400, 300)
        rows = [
            {
                "point_time": iso(at, "%Y-%m-%dT%H:%M:%S+00:00"),
                "value": (grams(at) + (path == "/v3/forecast")) / LB,
            }
            | ({"imputed_data_used": at // HOUR % 2 == 0} if marked else {})
            for at in times
            if at // HOUR % 24 not in self.missing
        ]
        meta = {
            "data_point_period_seconds": 300,
            "region": query["region"],
            "warnings": [],
            "signal_type": query["signal_type"],
            "model": {"date": "2023-03-01"},
            "units": "lbs_co2_per_mwh",
        }
        return 200, dumped({"data": rows, "meta": meta}), {}

    def _uk(self, path):
        parts = path.strip("/").split("/")
        regional = parts[0] == "regional"
        if path.endswith("fw24h") or regional:
            first = stamp(parts[2] if regional else parts[1]) // 1800 * 1800
            times = [first + 1800 * i for i in range(48)]
        else:
            first, last = (stamp(part) // 1800 * 1800 for part in parts[1:3])
            times = [first + 1800 * i for i in range(int((last - first) // 1800) + 1)]
        rows = []
        for at in times:
            # A half hour that has not ended has no actual value.
            actual = grams(at) if at + 1800 <= self.now else None
            value = {"forecast": grams(at) + 1, "actual": actual, "index": "moderate"}
            if regional:
                del value["actual"]
            span = {"from": iso(at, "%Y-%m-%dT%H:%MZ"), "to": iso(at + 1800, "%Y-%m-%dT%H:%MZ")}
            if at // HOUR % 24 not in self.missing:
                rows.append(span | {"intensity": value})
        if regional:
            region = {"regionid": 13, "shortname": "London", "data": rows}
            return 200, dumped({"data": region}), {}
        return 200, dumped({"data": rows}), {}

    def _carbon_aware(self, path, query):
        if "location" not in query:
            return 400, dumped({"title": "ArgumentException", "status": 400, "errors": {}}), {}
        hour, form = self._hour(), "%Y-%m-%dT%H:%M:%S.5092741+00:00"
        if path == "/emissions/bylocation":
            first = stamp(query["time"])
            times = [hour - HOUR * h for h in range(24, -1, -1) if hour - HOUR * h >= first - HOUR]
            rows = [
                {
                    "location": "IE",
                    "time": iso(at, form),
                    "rating": grams(at),
                    "duration": "01:00:00",
                }
                for at in times
                if at // HOUR % 24 not in self.missing
            ]
            return (200, dumped(rows), {}) if rows else (204, b"", {})
        points = [
            {
                "location": "IE",
                "timestamp": iso(hour + HOUR * h, form),
                "duration": 60,
                "value": grams(hour + HOUR * h) + 1.0,
            }
            for h in range(24)
        ]
        forecast = {"location": query["location"], "windowSize": 60, "forecastData": points}
        return 200, dumped([forecast]), {}


SOURCES = {
    "electricity-maps": lambda url: ElectricityMaps("DE", "direct", SECRET, url),
    "watttime": lambda url: WattTime("CAISO_NORTH", "me", SECRET, url),
    "uk": lambda url: CarbonIntensityUk("GB", url),
    "carbon-aware": lambda url: CarbonAware("northeurope", Kind("average", "direct"), url),
}
# A part of the path at which each service gives readings or forecasts.
READINGS = {
    "electricity-maps": "/latest",
    "watttime": "/historical",
    "uk": "/intensity/",
    "carbon-aware": "/emissions/bylocation",
}
FORECASTS = {
    "electricity-maps": "/forecast",
    "watttime": "/v3/forecast",
    "uk": "fw24h",
    "carbon-aware": "/emissions/forecasts",
}
