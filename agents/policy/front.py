"""The Pareto front of a policy: quality and costs at every price, and the price that a floor needs.

A policy that observes the price of quality is a whole family of policies. Its front is measured
after training, on verdicts that it was not trained on, for the requests of each constraint: a task,
with or without its tag, in a zone. A floor then needs no training: its price is looked up.
"""

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from envs.arrays import Float64Array
from envs.outcomes.floors import CONSTANT_FLOORS, FloorSchedule

FILE = "front.json"
COSTS = ("grams", "joules", "device_seconds", "latency_seconds", "completion_tokens")
DIGITS = 6


class Point(NamedTuple):
    """A point of the front.

    Attributes:
        log_price, log_latency_price: logarithms of the prices, as the policy observes them.
        l0_share: share of requests that must be left at L0 because no price reaches the floor.
        limits_kept: False if the task has a latency limit that no price keeps with the floor.
    """

    log_price: float
    log_latency_price: float = 0.0
    l0_share: float = 0.0
    limits_kept: bool = True

    @property
    def dearness(self) -> tuple[float, float]:
        """Key by which the point that keeps more quality is the greater one."""
        return self.log_price, self.l0_share


@dataclass(frozen=True)
class Curve:
    """Quality and costs of one constraint's requests: L latency prices by P prices of quality.

    Attributes:
        quality, quality_error: quality relative to L0, and its standard error, shape (L, P).
        grams_error: standard error of the footprint relative to L0, shape (L, P).
        costs: mean of each of `COSTS` per request, shape (L, P) each; gCO2e, J, s and tokens.
        l0: the same under L0.
        overshoot: upper bound on the worst excess over a latency limit, shape (L, P); None if the
            task has no limit.
        requests: number of requests that were measured.
    """

    quality: Float64Array
    quality_error: Float64Array
    grams_error: Float64Array
    costs: Mapping[str, Float64Array]
    l0: Mapping[str, float]
    overshoot: Float64Array | None
    requests: int

    def to_json(self) -> dict[str, Any]:
        """Return the curve as JSON-ready values, rounded to `DIGITS` significant digits."""
        plain: dict[str, Any] = {
            name: None if values is None else _rounded(values)
            for name in ("quality", "quality_error", "grams_error", "overshoot")
            for values in (getattr(self, name),)
        }
        plain["costs"] = {name: _rounded(values) for name, values in self.costs.items()}
        return plain | {"l0": dict(self.l0), "requests": self.requests}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Curve":
        """Return the curve that `to_json` converted; raise ValueError if it is damaged."""
        arrays = {name: _array(plain[name]) for name in ("quality", "quality_error", "grams_error")}
        overshoot = None if plain["overshoot"] is None else _array(plain["overshoot"])
        costs = {name: _array(plain["costs"][name]) for name in COSTS}
        shapes = {array.shape for array in (*arrays.values(), *costs.values())}
        if len(shapes) != 1 or (overshoot is not None and overshoot.shape not in shapes):
            raise ValueError("the arrays of a curve differ in shape")
        l0 = {name: float(plain["l0"][name]) for name in COSTS}
        return cls(**arrays, costs=costs, l0=l0, overshoot=overshoot, requests=plain["requests"])


@dataclass(frozen=True)
class Front:
    """The curves of a policy's constraints.

    Attributes:
        prices: prices of quality, ascending, shape (P,).
        latency_prices: prices of latency, ascending, shape (L,).
        confidence: number of standard errors by which a price must clear a floor.
        safety: constant margin added to every floor.
        zones: by zone, the curve of each constraint; the names are those of
            `envs.outcomes.reward.Reward`.
        schedule: how floors follow the grid's intensity.
    """

    prices: Float64Array
    latency_prices: Float64Array
    confidence: float
    safety: float
    zones: Mapping[str, Mapping[str, Curve]]
    schedule: FloorSchedule = CONSTANT_FLOORS
    _reached: dict[tuple[str, str], list[list[float]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def point(self, zone: str | None, name: str, floor: float) -> Point:
        """Return the cheapest point that keeps a floor with the asked confidence.

        Its price is the lowest measured one from which on every higher one keeps the floor too. No
        price between two is taken, since the policy may change much there. If the task has latency
        limits, the least price of latency is chosen under which they hold as well.

        Args:
            zone: the zone; for one that was not measured, the highest price of all zones is
                returned.
            name: name of the constraint.
            floor: least quality relative to L0.

        Raises:
            KeyError: the front has no such constraint.
        """
        if zone is None or zone not in self.zones:
            points = [self.point(known, name, floor) for known in self.zones]
            return max(points, key=lambda point: point.dearness)
        curve = self.zones[zone][name]
        points = [
            self._point(zone, name, level, floor + self.safety)
            for level in range(len(self.latency_prices))
        ]
        if curve.overshoot is None:
            return points[0]
        excess = [self._at(curve.overshoot, point) for point in points]
        kept = [point for point, over in zip(points, excess, strict=True) if over <= 0]
        if kept:
            return kept[0]
        return points[int(np.argmin(excess))]._replace(limits_kept=False)

    def figures(self, zone: str, name: str, point: Point) -> dict[str, float]:
        """Return what a point means for one request.

        Returns:
            `quality` and `grams_ratio` relative to L0, `quality_error` and `grams_error` (their
            standard errors), and each of `COSTS` per request.
        """
        curve = self.zones[zone][name]
        mixed = 1 - point.l0_share
        values = {cost: self._at(curve.costs[cost], point) for cost in COSTS}
        figures = {
            cost: mixed * value + point.l0_share * curve.l0[cost] for cost, value in values.items()
        }
        grams_l0 = curve.l0["grams"]
        return figures | {
            "quality": mixed * self._at(curve.quality, point) + point.l0_share,
            "quality_error": mixed * self._at(curve.quality_error, point),
            "grams_ratio": figures["grams"] / grams_l0 if grams_l0 > 0 else 1.0,
            "grams_error": mixed * self._at(curve.grams_error, point),
        }

    @cached_property
    def log_prices(self) -> list[float]:
        """Logarithms of `prices`."""
        logarithms: list[float] = np.log(self.prices).tolist()
        return logarithms

    @cached_property
    def log_latency_prices(self) -> list[float]:
        """Logarithms of `latency_prices`, as the policy observes them; 0 if it observes none."""
        if len(self.latency_prices) == 1:
            return [0.0]
        logarithms: list[float] = np.log(self.latency_prices).tolist()
        return logarithms

    def _point(self, zone: str, name: str, level: int, floor: float) -> Point:
        reached = self._bounds(zone, name)[level]
        latency = self.log_latency_prices[level]
        # `reached` ascends, so the lowest price that suffices is found by bisection.
        place = bisect_left(reached, floor)
        if place == len(reached):
            # The floor is beyond the front: what is missing comes from requests at L0.
            highest = reached[-1]
            share = (floor - highest) / (1 - highest) if highest < 1 else 0.0
            return Point(self.log_prices[-1], latency, min(1.0, share))
        return Point(self.log_prices[place], latency)

    def _bounds(self, zone: str, name: str) -> list[list[float]]:
        """Return, by latency price, the quality that each price and every higher one reaches."""
        key = zone, name
        if key not in self._reached:
            curve = self.zones[zone][name]
            lower = curve.quality - self.confidence * curve.quality_error
            ascending = np.minimum.accumulate(lower[:, ::-1], axis=1)[:, ::-1]
            self._reached[key] = ascending.tolist()
        return self._reached[key]

    def _at(self, values: Float64Array, point: Point) -> float:
        level = self.log_latency_prices.index(point.log_latency_price)
        return float(values[level][self.log_prices.index(point.log_price)])

    def save(self, path: Path) -> None:
        """Write the front as JSON."""
        plain = {
            "prices": _rounded(self.prices),
            "latency_prices": _rounded(self.latency_prices),
            "confidence": self.confidence,
            "safety": self.safety,
            "schedule": {f.name: getattr(self.schedule, f.name) for f in fields(self.schedule)},
            "zones": {
                zone: {name: curve.to_json() for name, curve in curves.items()}
                for zone, curves in self.zones.items()
            },
        }
        path.write_text(json.dumps(plain) + "\n", encoding="utf-8")


def load_front(path: Path) -> Front:
    """Return a saved front.

    Raises:
        ValueError, KeyError, TypeError: the file is damaged.
    """
    plain = json.loads(path.read_text(encoding="utf-8"))
    schedule = plain["schedule"]
    front = Front(
        _array(plain["prices"]),
        _array(plain["latency_prices"]),
        float(plain["confidence"]),
        float(plain["safety"]),
        {
            zone: {name: Curve.from_json(curve) for name, curve in curves.items()}
            for zone, curves in plain["zones"].items()
        },
        FloorSchedule(
            float(schedule["slack"]), tuple(schedule["edges"]), tuple(schedule["places"])
        ),
    )
    shape = len(front.latency_prices), len(front.prices)
    ascending = all(np.all(np.diff(p) > 0) for p in (front.prices, front.latency_prices))
    if not front.zones or not ascending or not np.all(front.prices > 0):
        raise ValueError("the front has no zone, or its prices do not ascend from above 0")
    for curves in front.zones.values():
        for name, curve in curves.items():
            if curve.quality.shape != shape:
                raise ValueError(f"{name}: a curve of shape {curve.quality.shape}, not {shape}")
    return front


def _rounded(values: Float64Array) -> Any:
    def of(value: Any) -> Any:
        if isinstance(value, list):
            return [of(each) for each in value]
        return float(f"{value:.{DIGITS}g}")

    return of(values.tolist())


def _array(values: Sequence[Any]) -> Float64Array:
    array = np.array(values, dtype=np.float64)
    if not array.size or not np.isfinite(array).all():
        raise ValueError("an array is empty, or holds NaN or infinity")
    return array
