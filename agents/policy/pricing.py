"""The prices that a policy must observe so that floors are kept."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from agents.policy.front import Front, Point
from envs.arrays import AnyArray, BoolArray, Float32Array, Float64Array
from envs.outcomes.floors import untagged_name
from envs.outcomes.stated_floors import ANY_TASK
from envs.requests.features import LIKE, Featurizer

# A request without a tag counts as one of each task that its words resemble this much or more.
# The resemblance is a regression on indicators of the tasks: it is near 1 for the request's own.
RESEMBLANCE = 0.25


class Floor(NamedTuple):
    """A floor: least quality relative to L0, and who asks for it.

    Attributes:
        ratio: 0..1.
        origin: "policy" (its training), "start" (a flag or file of the hook), "operator",
            "rule", "caller", "guard", "evidence" (of live quality) or "evaluation".
    """

    ratio: float
    origin: str


@dataclass(frozen=True)
class Floors:
    """Floors in force.

    Attributes:
        by_task: floor by task, or for `ANY_TASK`. A task that is not there keeps the floor that
            the policy was trained for.
        least: a floor that no task may fall below; None for none.
    """

    by_task: Mapping[str, Floor] = field(default_factory=dict)
    least: Floor | None = None

    def of(self, task: str, trained: Mapping[str, float]) -> Floor | None:
        """Return a task's floor; None if it has none.

        Args:
            trained: the floors that the policy was trained for.
        """
        floor = self.by_task.get(task, self.by_task.get(ANY_TASK))
        if floor is None and task in trained:
            floor = Floor(trained[task], "policy")
        if self.least is not None and (floor is None or self.least.ratio > floor.ratio):
            return self.least
        return floor

    def eased(self, task: str, floor: Floor) -> "Floors":
        """Return the floors with a lower one for a task, unless all tasks have a least floor."""
        return self if self.least is not None else Floors({**self.by_task, task: floor})

    def raised(self, least: Floor) -> "Floors":
        """Return the floors with another one that no task may fall below."""
        if self.least is not None and self.least.ratio >= least.ratio:
            return self
        return Floors(self.by_task, least)


def floors_from(ratios: Mapping[str, float], origin: str) -> Floors:
    """Return floors by task that all have the same origin."""
    return Floors({task: Floor(ratio, origin) for task, ratio in ratios.items()})


class Points(NamedTuple):
    """Points of a front for n requests, each of shape (n,); see `Point`."""

    log_price: Float64Array
    log_latency_price: Float64Array
    l0_share: Float64Array


@dataclass(frozen=True)
class Pricing:
    """Prices by task, tag, zone and floor, from a policy's front.

    A policy without a front, such as one that was trained elsewhere, has fixed prices. It keeps
    the floors of its training, and a higher floor leaves some requests at L0.

    Attributes:
        featurizer: the policy's.
        front: the policy's front; None if it has none.
        trained: floors that the policy was trained for, by task.
        fixed: prices by constraint that a policy without a front was trained under; empty if it
            was trained without observing prices.
        zone: zone of the requests; None if it is unknown.
    """

    featurizer: Featurizer
    front: Front | None
    trained: Mapping[str, float]
    fixed: Mapping[str, float] = field(default_factory=dict)
    zone: str | None = None

    def point(
        self, task: str | None, part: Float32Array, g_per_kwh: float, floors: Floors
    ) -> tuple[Point, Floor | None]:
        """Return the point for one request, and the floor that it is for.

        Args:
            task: the request's tag; None if it has none.
            part: the request's features, as `Featurizer.request` returns them.
            g_per_kwh: the grid's carbon intensity now.
            floors: floors in force.
        """
        band = 0
        if self.front is not None and self.front.schedule.edges:
            band = int(self.front.schedule.band(np.array([g_per_kwh]))[0])
        if task in self.featurizer.tasks:
            return self._point(str(task), True, band, floors)
        # Without a tag, the dearest of the tasks that it may belong to: no floor suffers.
        points = [self._point(task, False, band, floors) for task in self._resembled(part)]
        return max(points, key=lambda pair: pair[0].dearness, default=(Point(0.0), None))

    def points(
        self,
        tags: Sequence[str | None],
        parts: Float32Array,
        g_per_kwh: Float64Array,
        floors: Floors,
    ) -> Points:
        """Return the points for n requests; see `point`.

        Args:
            tags: each request's tag, or None.
            parts: features of the requests; the columns after `Featurizer.request`'s are not read.
            g_per_kwh: shape (n,).
            floors: floors in force.
        """
        count = len(tags)
        bands = np.zeros(count, dtype=np.int64)
        if self.front is not None:
            bands = self.front.schedule.band(g_per_kwh)
        result = np.full((3, count), -np.inf)
        tagged = np.array([tag in self.featurizer.tasks for tag in tags], dtype=np.bool_)
        resembled = self._resembled_by_row(parts)
        for index, task in enumerate(self.featurizer.tasks):
            of_task = np.array([tag == task for tag in tags], dtype=np.bool_)
            for band in np.unique(bands):
                for shown in (True, False):
                    rows = (of_task if shown else ~tagged & resembled[:, index]) & (bands == band)
                    if rows.any():
                        point, _ = self._point(task, shown, int(band), floors)
                        price, share = point.dearness
                        dearer = (result[0] < price) | ((result[0] == price) & (result[2] < share))
                        result[:, rows & dearer] = np.array(point[:3])[:, None]
        return Points(*result)

    def reaches(self, task: str | None, floor: float) -> bool:
        """Return whether some price alone keeps a floor, without leaving requests at L0.

        Args:
            task: a task of the policy; any other value stands for the requests without a tag,
                which may belong to any task.
            floor: least quality relative to L0.
        """
        if self.front is None:
            return False
        tagged = task in self.featurizer.tasks
        points = [
            self.front.point(self.zone, name if tagged else untagged_name(name), floor)
            for each in ([str(task)] if tagged else self.featurizer.tasks)
            for name in self.front.schedule.names(each)
        ]
        return all(point.l0_share == 0 for point in points)

    def _point(
        self, task: str, tagged: bool, band: int, floors: Floors
    ) -> tuple[Point, Floor | None]:
        floor = floors.of(task, self.trained)
        ratio = 0.0 if floor is None else floor.ratio
        if self.front is None:
            return self._fixed_point(task, tagged, ratio), floor
        schedule = self.front.schedule
        name = schedule.names(task)[band]
        lowered = schedule.floor(ratio, band)
        name = name if tagged else untagged_name(name)
        return self.front.point(self.zone, name, lowered), floor

    def _fixed_point(self, task: str, tagged: bool, floor: float) -> Point:
        kept = self.trained.get(task, min(self.trained.values(), default=0.0))
        share = (floor - kept) / (1 - kept) if floor > kept else 0.0
        if not self.fixed:
            return Point(0.0, 0.0, share)
        price = self.fixed.get(task, 1.0)
        if not tagged:
            price = self.fixed.get(untagged_name(task), price)
        limits = [self.fixed[n] for n in (f"{task} mean", f"{task} p95") if n in self.fixed]
        latency = sum(limits) / len(limits) if limits else 0.0
        return Point(_logarithm(price), _logarithm(latency), share)

    def _resembled(self, part: Float32Array) -> list[str]:
        row = self._resembled_by_row(part[None])[0].tolist()
        return [task for task, like in zip(self.featurizer.tasks, row, strict=True) if like]

    def _resembled_by_row(self, parts: Float32Array) -> BoolArray:
        """Return whether each request may belong to each task, shape (n, tasks)."""
        if self._likes is None:
            return np.ones((len(parts), len(self.featurizer.tasks)), dtype=np.bool_)
        scores: AnyArray = parts[:, self._likes]
        resembled: BoolArray = scores >= np.minimum(RESEMBLANCE, scores.max(axis=1, keepdims=True))
        return resembled

    @cached_property
    def _likes(self) -> list[int] | None:
        """Index of each task's feature of resemblance; None if there are none."""
        index_of = {name: index for index, name in enumerate(self.featurizer.names)}
        indices = [index_of.get(LIKE + task) for task in self.featurizer.tasks]
        known = [index for index in indices if index is not None]
        return known if known and len(known) == len(indices) else None


def pricing_of(
    manifest: Mapping[str, Any], featurizer: Featurizer, front: Front | None, zone: str | None
) -> Pricing:
    """Return the pricing of a bundle with this manifest."""
    floors = manifest.get("floors")
    fixed = (manifest.get("problem") or {}).get("multipliers")
    fixed_price = (manifest.get("training") or {}).get("fixed_price")
    if fixed_price is not None:
        front, fixed = None, dict.fromkeys(featurizer.tasks, fixed_price)
    return Pricing(
        featurizer,
        front,
        dict(floors) if isinstance(floors, dict) else {},
        dict(fixed) if isinstance(fixed, dict) else {},
        zone,
    )


def _logarithm(price: float) -> float:
    return math.log(max(price, 1e-12)) if price < math.inf else math.inf
