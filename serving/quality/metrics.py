"""Prometheus metrics of the watched quality, in base units."""

import math
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

from serving.ledger.quality.verdict import Verdict
from serving.quality.cell import Cell
from serving.quality.guard import Level

_LEVELS: dict[Level, int] = {"eased": -1, "asked": 0, "raised": 1, "l0": 2}
_CELL = ("model", "task", "zone")
_BOUNDS = (
    ("", ""),
    ("_low", ": lower bound that holds at every look"),
    ("_high", ": upper bound that holds at every look"),
)


class QualityMetrics:
    """The metrics of a `serving.quality.watch.QualityWatch`.

    Attributes:
        samples: sampled requests by their fate, "judged" or "dropped".
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.samples = self._counter("quality_samples", "Sampled requests by their fate", "fate")
        for fate in ("judged", "dropped"):
            self.samples.labels(fate)
        self._verdicts = self._counter("judge_verdicts", "Verdicts", "judge", "result")
        self._seconds = self._counter("judge_seconds", "Time that judges took, s", "judge")
        self._tokens = self._counter("judge_tokens", "Tokens of judges", "judge")
        self._joules = self._counter(
            "evaluation_energy_joules", "Energy of answers and verdicts that were made to judge, J"
        )
        self._grams = self._counter(
            "evaluation_emissions_grams", "Emissions of the same, as far as known, gCO2e"
        )
        text = "Quality of the served answers relative to L0"
        self._ratios = [
            self._gauge(f"quality_ratio{suffix}", text + more, *_CELL) for suffix, more in _BOUNDS
        ]
        self._floor = self._gauge("quality_ratio_floor", f"{text} that is asked for", *_CELL)
        text = "Share of conversations with a sign, policy less held out, of this week (UTC)"
        self._signs = [
            self._gauge(f"sign_difference{suffix}", text + more, "task", "sign")
            for suffix, more in _BOUNDS
        ]
        self._state = self._gauge(
            "guard_state",
            "0 where the policy runs as asked, 1 at a raised price, 2 at L0, -1 at an eased price",
            *_CELL,
        )
        self._moves = self._counter(
            "guard_moves", "Changes of a task's level by the guard", "task", "zone", "reason"
        )

    def judged(self, verdict: Verdict) -> None:
        """Count a verdict."""
        self._verdicts.labels(verdict.judge, verdict.result).inc()
        self._seconds.labels(verdict.judge).inc(verdict.judge_seconds)
        self._tokens.labels(verdict.judge).inc(verdict.judge_tokens or 0)
        self._joules.inc((verdict.evaluation_joules or 0.0) + (verdict.judge_joules or 0.0))
        self._grams.inc(verdict.evaluation_grams or 0.0)

    def moved(self, event: Mapping[str, Any]) -> None:
        """Count an event of the guard."""
        self._moves.labels(event["task"], event["zone"], event["reason"]).inc()

    def level(self, cell: Cell, level: Level) -> None:
        """Set the level of a cell."""
        self._state.labels(*cell).set(_LEVELS[level])

    def report(self, quality: Mapping[str, Any]) -> None:
        """Set the quality of all cells; see `serving.quality.report.read_quality`."""
        for cell in quality["cells"]:
            labels = cell["model"], cell["task"], cell["zone"]
            values = (cell["served"]["ratio"], *cell["served"]["interval"])
            for gauge, value in zip(self._ratios, values, strict=True):
                gauge.labels(*labels).set(_number(value))
            self._floor.labels(*labels).set(_number(cell["floor"]))

    def signs(self, signs: Mapping[str, Any]) -> None:
        """Set the differences of all signs; see `serving.quality.signs.read_signs`."""
        for task, of_task in signs["tasks"].items():
            for sign, figures in of_task["signs"].items():
                values = (figures["difference"], *figures["interval"])
                for gauge, value in zip(self._signs, values, strict=True):
                    gauge.labels(task, sign).set(_number(value))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"sprout_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"sprout_{name}", text, labels, registry=self._registry)


def _number(value: float | None) -> float:
    """Return a value, or Prometheus' word for one that is not known."""
    return math.nan if value is None else value
