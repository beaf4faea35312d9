"""Energy of machines elsewhere: a Prometheus query, or an exporter's own page (DCGM's)."""

import json
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlencode

from envs.energy.meters.power import PowerIntegral
from envs.errors import MeterError
from envs.http_client import Fetcher, FetchError

Unit = Literal["mJ", "J", "Wh", "kWh", "W", "mW"]
_SCALES: dict[str, float] = {"mJ": 1e-3, "J": 1.0, "Wh": 3.6e3, "kWh": 3.6e6, "W": 1.0, "mW": 1e-3}
_POWER = ("W", "mW")
# DCGM exporter (https://github.com/NVIDIA/dcgm-exporter): a counter of mJ a GPU.
DCGM_ENERGY = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
TIMEOUT_SECONDS = 2.0
POWER_SECONDS = 2.0


@dataclass(frozen=True)
class RemoteSettings:
    """What to read.

    Attributes:
        url: of a Prometheus server, with `query`; or of an exporter's page of metrics.
        query: PromQL whose values are summed, or, for a page, a metric's name.
        unit: of its values; a power is integrated over time.
        tick_seconds: how often they change: the interval of scraping.
    """

    url: str
    query: str = DCGM_ENERGY
    unit: Unit = "mJ"
    tick_seconds: float = 15.0


class RemoteMeter:
    """See `RemoteSettings`.

    Raises:
        MeterError: it cannot be read, or gives no values.
    """

    method = "measured"
    # The remote meter's own error is not known here; NVML's is a lower bound.
    error_ratio = 0.05

    def __init__(self, remote: RemoteSettings) -> None:
        self._remote = remote
        self._fetcher = Fetcher(TIMEOUT_SECONDS)
        self._page = remote.url.rstrip("/").endswith("/metrics")
        self.devices = tuple(sorted(self._values()))
        self.tick_seconds = remote.tick_seconds
        power = remote.unit in _POWER
        self._integral = PowerIntegral(self._sum, POWER_SECONDS) if power else None
        self.source = f"{remote.query} ({remote.unit}) of {self._fetcher.shown(remote.url)}"

    def read_joules(self) -> float:
        """J by the counter, or of the power since the meter was made."""
        return self._integral.joules() if self._integral is not None else self._sum()

    def _sum(self) -> float:
        values = self._values()
        if changed := sorted(set(values) ^ set(self.devices)):
            # A gap, and counted anew from here on: an exporter that was restarted has other labels.
            self.devices = tuple(sorted(values))
            raise MeterError(f"{self.source}: series {changed} came or went")
        return sum(values.values()) * _SCALES[self._remote.unit]

    def _values(self) -> dict[str, float]:
        remote = self._remote
        if remote.unit not in _SCALES:
            raise MeterError(f"unit {remote.unit!r}: one of {', '.join(_SCALES)}")
        try:
            found = self._of_page() if self._page else self._of_query()
        except FetchError as error:
            raise MeterError(str(error)) from error
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            where = self._fetcher.shown(remote.url)
            raise MeterError(f"{where}: no answer of Prometheus ({error})") from error
        if not found:
            where = self._fetcher.shown(remote.url)
            raise MeterError(f"{where}: {remote.query} has no values now")
        return found

    def _of_query(self) -> dict[str, float]:
        # https://prometheus.io/docs/prometheus/latest/querying/api/
        url = f"{self._remote.url.rstrip('/')}/api/v1/query"
        answer = self._fetcher.get(f"{url}?{urlencode({'query': self._remote.query})}")
        data: Any = json.loads(answer)["data"]
        if data["resultType"] == "scalar":
            return {"scalar": float(data["result"][1])}
        return {
            json.dumps(row["metric"], sort_keys=True): float(row["value"][1])
            for row in data["result"]
        }

    def _of_page(self) -> dict[str, float]:
        # Where a server has no Prometheus client library, there is no page to read either.
        from prometheus_client.parser import text_string_to_metric_families as families

        text = self._fetcher.get(self._remote.url).decode("utf-8")
        return {
            json.dumps(sample.labels, sort_keys=True): float(sample.value)
            for family in families(text)
            for sample in family.samples
            # The library adds the ending that counters are to have.
            if sample.name in (self._remote.query, f"{self._remote.query}_total")
        }
