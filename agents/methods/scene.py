"""The scene: requests at hours, the same for every method that is compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from envs.arrays import BoolArray, Float32Array, Float64Array, Int64Array, StrArray
from envs.carbon.footprint import footprint_grams
from envs.carbon.intensity import HOUR_SECONDS, IntensityTrace
from envs.errors import ConfigError
from envs.outcomes.profile import Profile
from envs.requests.features import Featurizer
from envs.requests.mix import Mix
from envs.world import moment_on, request_parts


@dataclass(frozen=True)
class Scene:
    """n requests, each at an hour in a zone, whose outcomes under all D directives are known.

    Attributes:
        profile: the requests, in the scene's order.
        traces: intensity of each zone.
        zone: shape (n,), index into `traces`.
        times: shape (n,), Unix s.
        weights: shape (n,), what a request counts for, above 0; their mean is 1.
        floors: least quality ratio of each task.
        quality: "correct" or "preference": the quality that the floors are on.
        hours: shape (n,), hours from the window's start.
        mix: share of each task of `floors`, in that order, by hour of the window.
    """

    profile: Profile
    traces: tuple[IntensityTrace, ...]
    zone: Int64Array
    times: Float64Array
    weights: Float64Array
    floors: Mapping[str, float]
    quality: str
    hours: Int64Array
    mix: Mix

    def __len__(self) -> int:
        return len(self.times)

    @cached_property
    def intensity(self) -> Float64Array:
        """gCO2e/kWh at each request, shape (n,)."""
        found = np.empty(len(self))
        for index, trace in enumerate(self.traces):
            here = self.zone == index
            found[here] = trace.at(self.times[here])
        return found

    @cached_property
    def grams(self) -> Float64Array:
        """Footprint of each request under each directive, gCO2e, shape (n, D)."""
        return footprint_grams(
            self.profile.outcomes.energy_joules,
            self.profile.outcomes.device_seconds,
            self.intensity[:, None],
        )

    @property
    def scores(self) -> Float64Array:
        """Quality under each directive, shape (n, D); no NaN."""
        return self.profile.quality(self.quality)

    @cached_property
    def tasks(self) -> StrArray:
        """Task of each request, shape (n,)."""
        return np.array([request.task for request in self.profile.requests])

    @cached_property
    def moments(self) -> Int64Array:
        """One number for each zone and hour that occurs, shape (n,), counted from 0."""
        key = np.stack([self.zone, np.floor(self.times / HOUR_SECONDS).astype(np.int64)])
        _, moments = np.unique(key, axis=1, return_inverse=True)
        return moments.ravel()

    @cached_property
    def task_index(self) -> Int64Array:
        """Place of each request's task among `floors`, shape (n,)."""
        place = {task: index for index, task in enumerate(self.floors)}
        return np.array([place[r.task] for r in self.profile.requests], dtype=np.int64)

    def rows_of(self, task: str) -> BoolArray:
        """Mask of a task's requests, shape (n,)."""
        mask: BoolArray = self.tasks == task
        return mask

    def means(self, values: Float64Array, rows: BoolArray | None = None) -> Float64Array:
        """Weighted means over requests, shape (n, ...) -> (...)."""
        chosen = slice(None) if rows is None else rows
        return np.average(values[chosen], axis=0, weights=self.weights[chosen])

    def task_means(self, values: Float64Array) -> Float64Array:
        """Weighted means of (n, D) over each task's requests, shape (tasks, D)."""
        return np.array([self.means(values, self.rows_of(task)) for task in self.floors])

    def observations(self, featurizer: Featurizer, task_tags: bool) -> Float32Array:
        """What a policy sees of each request, no load in flight, shape (n, n_features)."""
        parts = request_parts(featurizer, self.profile.requests, task_tags)
        seen = np.empty((len(self), len(featurizer.names)), dtype=np.float32)
        for index, trace in enumerate(self.traces):
            here = self.zone == index
            if here.any():
                idle = np.zeros(int(here.sum()))
                seen[here] = featurizer.observe(
                    parts[here], moment_on(trace, self.times[here], idle)
                )
        return seen


@dataclass(frozen=True)
class Windows:
    """Spans of each trace's hours.

    Attributes:
        starts: first hour of each window; empty takes each trace whole.
        hours: length of each window.
    """

    starts: Sequence[int] = ()
    hours: int = 720


def build_scene(
    profile: Profile,
    traces: Sequence[IntensityTrace],
    floors: Mapping[str, float],
    *,
    quality: str,
    windows: Windows = Windows(),
    mix: Mix | None = None,
    seed: int = 0,
) -> Scene:
    """Every request of the profile once, spread evenly over the hours of all zones.

    Requests whose quality is not known under every directive are left out, and so are
    those to whose hour the mix gives none of their task.

    Args:
        floors: by task.
        windows: hours of each trace that requests are spread over.
        mix: share of each task by hour of the window, reached by weighting the requests;
            the shares of tasks that are left out go to the others. Default: the
            profile's own shares.
        seed: of the order in which the requests are spread.

    Raises:
        ConfigError: too few requests are left, or they are worth or cost nothing at L0.
        DataError: the window leaves a trace; the mix names a task without requests.
    """
    known = ~np.isnan(profile.quality(quality)).any(axis=1)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(known))
    zone, hour, times = _slots(traces, len(order), windows)
    chosen = profile.select(order)
    weights = np.ones(len(order))
    own = _own_shares(chosen)
    if mix is not None:
        asked = _of_known_tasks(mix.aligned(profile.tasks), chosen.tasks)
        index = np.array([own.tasks.index(r.task) for r in chosen.requests], dtype=np.int64)
        weights = asked.at(hour)[np.arange(len(index)), index] / own.shares[0, index]
    kept = np.flatnonzero(weights > 0)
    chosen = chosen.select(kept)
    _require_quality(chosen, quality)
    shares = own if mix is None else asked
    return Scene(
        chosen,
        tuple(traces),
        zone[kept],
        times[kept],
        weights[kept] / weights[kept].mean(),
        {task: floors[task] for task in chosen.tasks},
        quality,
        hour[kept],
        _of_known_tasks(shares, chosen.tasks),
    )


def _slots(
    traces: Sequence[IntensityTrace], count: int, windows: Windows
) -> tuple[Int64Array, Int64Array, Float64Array]:
    """Zone, hour of its window and time of each request, each shape (count,)."""
    by_zone = [
        [t.window_times(start, windows.hours) for start in windows.starts]
        or [t.window_times(0, len(t.g_per_kwh))]
        for t in traces
    ]
    spans = [times for of_zone in by_zone for times in of_zone]
    zone = np.concatenate(
        [np.full(len(times), z) for z, of_zone in enumerate(by_zone) for times in of_zone]
    )
    hour = np.concatenate([np.arange(len(times)) for times in spans])
    taken = ((np.arange(count) + 0.5) * len(zone) / max(1, count)).astype(np.int64)
    # In the middle of the hour: no rounding can move it into the next.
    times = np.concatenate(spans)[taken] + HOUR_SECONDS / 2
    return zone[taken], hour[taken], times


def _own_shares(profile: Profile) -> Mix:
    tasks = profile.tasks
    counts = np.array([profile.rows_of(task).sum() for task in tasks], dtype=np.float64)
    return Mix(tasks, counts[None] / max(1.0, counts.sum()))


def _of_known_tasks(mix: Mix, tasks: Sequence[str]) -> Mix:
    """The mix over some of its tasks only, scaled to sum to 1 again; an hour may be empty."""
    shares = mix.shares[:, [mix.tasks.index(task) for task in tasks]]
    totals = shares.sum(axis=1, keepdims=True)
    return Mix(tuple(tasks), shares / np.where(totals > 0, totals, 1))


def _require_quality(profile: Profile, quality: str) -> None:
    if len(profile.requests) < 2:
        raise ConfigError(
            f"{len(profile.requests)} requests of the profile have a known quality {quality!r} "
            "under every directive, and a share in the mix; two or more are needed"
        )
    if not profile.quality(quality)[:, 0].any():
        raise ConfigError(f"no request has any quality {quality!r} under L0 that could be kept")
    if (
        not profile.outcomes.energy_joules[:, 0].any()
        and not profile.outcomes.device_seconds[:, 0].any()
    ):
        raise ConfigError("no request costs anything under L0: there is nothing to save")
