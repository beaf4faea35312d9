"""Energy of remote machines, from a Prometheus query or an exporter's metrics page (DCGM's)."""

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
# DCGM exporter (https://github.com/NVIDIA/dcgm-exporter): one counter per GPU, in mJ.
DCGM_ENERGY = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
TIMEOUT_SECONDS = 2.0
POWER_SECONDS = 2.0


@dataclass(frozen=True)
class RemoteSettings:
    """Settings of a remote meter.

    Attributes:
        url: URL of a Prometheus server, or of an exporter's page (its path ends in /metrics).
        query: PromQL query, or name of a metric on the page; all values are summed.
        unit: unit of the values; a power is integrated over time.
        tick_seconds: interval at which the values change, s: the scrape interval.
    """

    url: str
    query: str = DCGM_ENERGY
    unit: Unit = "mJ"
    tick_seconds: float = 15.0


class RemoteMeter:
    """Sum of all values of a Prometheus query, or of a metric on an exporter's page.

    Raises:
        MeterError: the server cannot be read, or gives no values.
    """

    method = "measured"
    # The remote meter's own error is unknown; NVML's error is a lower bound.
    error_ratio = 0.05

    def __init__(self, remote: RemoteSettings) -> None:
        self._remote = remote
        self._fetcher = Fetcher(TIMEOUT_SECONDS)
        self._is_page = remote.url.rstrip("/").endswith("/metrics")
        self.devices = tuple(sorted(self._values()))
        self.tick_seconds = remote.tick_seconds
        is_power = remote.unit in _POWER
        self._integral = PowerIntegral(self._sum, POWER_SECONDS) if is_power else None
        self.source = f"{remote.query} ({remote.unit}) of {self._fetcher.shown(remote.url)}"

    def read_joules(self) -> float:
        """Return the counter's joules, or the power integrated since the meter's creation."""
        return self._integral.joules() if self._integral is not None else self._sum()

    def _sum(self) -> float:
        values = self._values()
        if changed := sorted(set(values) ^ set(self.devices)):
            # A restarted exporter may have other labels. Leave a gap, and accept the new series
            # from the next reading on.
            self.devices = tuple(sorted(values))
            raise MeterError(f"{self.source}: series {changed} came or went")
        return sum(values.values()) * _SCALES[self._remote.unit]

    def _values(self) -> dict[str, float]:
        """Return the current value of each series, by the series' labels as JSON."""
        remote = self._remote
        if remote.unit not in _SCALES:
            raise MeterError(
                f"--meter-unit {remote.unit}: no such unit; give one of {', '.join(_SCALES)}"
            )
        try:
            values = self._page_values() if self._is_page else self._query_values()
        except FetchError as error:
            raise MeterError(str(error)) from error
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            where = self._fetcher.shown(remote.url)
            raise MeterError(
                f"{where}: the answer is not in Prometheus' format ({error}); give the URL of a "
                "Prometheus server, or of an exporter's page that ends in /metrics"
            ) from error
        if not values:
            where = self._fetcher.shown(remote.url)
            raise MeterError(f"{where}: {remote.query} has no values now; check --meter-query")
        return values

    def _query_values(self) -> dict[str, float]:
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

    def _page_values(self) -> dict[str, float]:
        # Imported late: without an exporter's page, the Prometheus client library is not needed.
        from prometheus_client.parser import text_string_to_metric_families as families

        text = self._fetcher.get(self._remote.url).decode("utf-8")
        return {
            json.dumps(sample.labels, sort_keys=True): float(sample.value)
            for family in families(text)
            for sample in family.samples
            # The parser appends "_total" to the names of counters.
            if sample.name in (self._remote.query, f"{self._remote.query}_total")
        }
