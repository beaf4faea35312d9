"""The scene: requests assigned to hours, identical for every method under comparison."""

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
        profile: the requests and their outcomes, in the scene's order.
        traces: carbon intensity of each zone.
        zone: index of each request's zone in `traces`, shape (n,).
        times: time of each request, Unix seconds, shape (n,).
        weights: weight of each request, above 0 with mean 1, shape (n,).
        floors: least quality relative to L0, by task.
        quality: "correct" or "preference": the quality that the floors constrain.
        hours: hour of each request, counted from its window's start, shape (n,).
        mix: share of each task by hour of the window; tasks in the order of `floors`.
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
        """Carbon intensity at each request's time, gCO2e/kWh, shape (n,)."""
        intensity = np.empty(len(self))
        for index, trace in enumerate(self.traces):
            in_zone = self.zone == index
            intensity[in_zone] = trace.at(self.times[in_zone])
        return intensity

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
        """Quality of each request under each directive, shape (n, D); no NaN."""
        return self.profile.quality(self.quality)

    @cached_property
    def tasks(self) -> StrArray:
        """Task of each request, shape (n,)."""
        return np.array([request.task for request in self.profile.requests])

    @cached_property
    def moments(self) -> Int64Array:
        """Index of each request's combination of zone and hour, from 0, shape (n,)."""
        key = np.stack([self.zone, np.floor(self.times / HOUR_SECONDS).astype(np.int64)])
        _, moments = np.unique(key, axis=1, return_inverse=True)
        return moments.ravel()

    @cached_property
    def task_index(self) -> Int64Array:
        """Index of each request's task in `floors`, shape (n,)."""
        index_of = {task: index for index, task in enumerate(self.floors)}
        return np.array([index_of[r.task] for r in self.profile.requests], dtype=np.int64)

    def rows_of(self, task: str) -> BoolArray:
        """Return the mask of a task's requests, shape (n,)."""
        mask: BoolArray = self.tasks == task
        return mask

    def means(self, values: Float64Array, rows: BoolArray | None = None) -> Float64Array:
        """Return weighted means over requests, shape (...).

        Args:
            values: shape (n, ...).
            rows: mask of the requests to average, shape (n,); None for all.
        """
        selected = slice(None) if rows is None else rows
        return np.average(values[selected], axis=0, weights=self.weights[selected])

    def task_means(self, values: Float64Array) -> Float64Array:
        """Return weighted means of (n, D) `values` over each task's requests, (tasks, D)."""
        return np.array([self.means(values, self.rows_of(task)) for task in self.floors])

    def observations(self, featurizer: Featurizer, task_tags: bool) -> Float32Array:
        """Return each request's observation on an idle server, shape (n, n_features).

        Args:
            featurizer: the policy's.
            task_tags: whether observations show the requests' task tags.
        """
        parts = request_parts(featurizer, self.profile.requests, task_tags)
        observations = np.empty((len(self), len(featurizer.names)), dtype=np.float32)
        for index, trace in enumerate(self.traces):
            in_zone = self.zone == index
            if in_zone.any():
                idle = np.zeros(int(in_zone.sum()))
                observations[in_zone] = featurizer.observe(
                    parts[in_zone], moment_on(trace, self.times[in_zone], idle)
                )
        return observations


@dataclass(frozen=True)
class Windows:
    """Windows of hours, the same for every trace.

    Attributes:
        starts: first hour of each window, from the trace's start; empty for the whole trace.
        hours: length of each window, h.
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
    """Return a scene with every request of the profile once, spread evenly over all zones' hours.

    Two kinds of requests are excluded: those whose quality is not known under every directive,
    and those whose task has share 0 in the mix at their hour.

    Args:
        profile: requests with their outcomes under every directive.
        traces: carbon intensity of each zone.
        floors: least quality relative to L0, by task.
        quality: "correct" or "preference".
        windows: hours of each trace over which requests are spread.
        mix: share of each task by hour of the window, achieved by weighting the requests. The
            shares of excluded tasks go to the other tasks. None for the profile's shares.
        seed: seed of the order in which requests are spread.

    Raises:
        ConfigError: too few requests remain, or their quality or cost under L0 is 0 throughout.
        DataError: a window exceeds its trace, or the mix names a task without requests.
    """
    known = ~np.isnan(profile.quality(quality)).any(axis=1)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(known))
    zone, hour, times = _slots(traces, len(order), windows)
    selected = profile.select(order)
    weights = np.ones(len(order))
    profile_mix = _profile_shares(selected)
    if mix is not None:
        target_mix = _restricted(mix.aligned(profile.tasks), selected.tasks)
        index = np.array(
            [profile_mix.tasks.index(r.task) for r in selected.requests], dtype=np.int64
        )
        target_shares = target_mix.at(hour)[np.arange(len(index)), index]
        weights = target_shares / profile_mix.shares[0, index]
    used = np.flatnonzero(weights > 0)
    selected = selected.select(used)
    _require_quality(selected, quality)
    scene_mix = profile_mix if mix is None else target_mix
    return Scene(
        selected,
        tuple(traces),
        zone[used],
        times[used],
        weights[used] / weights[used].mean(),
        {task: floors[task] for task in selected.tasks},
        quality,
        hour[used],
        _restricted(scene_mix, selected.tasks),
    )


def _slots(
    traces: Sequence[IntensityTrace], count: int, windows: Windows
) -> tuple[Int64Array, Int64Array, Float64Array]:
    """Return zone, hour in its window and time (Unix seconds) of each request, shape (count,)."""
    by_zone = [
        [t.window_times(start, windows.hours) for start in windows.starts]
        or [t.window_times(0, t.hours)]
        for t in traces
    ]
    spans = [times for zone_spans in by_zone for times in zone_spans]
    zone = np.concatenate(
        [np.full(len(times), z) for z, zone_spans in enumerate(by_zone) for times in zone_spans]
    )
    hour = np.concatenate([np.arange(len(times)) for times in spans])
    places = (np.arange(count) + 0.5) * len(zone) / max(1, count)
    slots = places.astype(np.int64)
    # The middle of the hour's step, so that rounding cannot move a request into the next one.
    per_hour = np.array([trace.steps_per_hour for trace in traces])[zone[slots]]
    within = (np.floor((places - slots) * per_hour) + 0.5) / per_hour
    times = np.concatenate(spans)[slots] + HOUR_SECONDS * within
    return zone[slots], hour[slots], times


def _profile_shares(profile: Profile) -> Mix:
    """Return each task's share of a profile's requests, as a mix of one hour."""
    tasks = profile.tasks
    counts = np.array([profile.rows_of(task).sum() for task in tasks], dtype=np.float64)
    return Mix(tasks, counts[None] / max(1.0, counts.sum()))


def _restricted(mix: Mix, tasks: Sequence[str]) -> Mix:
    """Return the mix restricted to some tasks, rescaled to sum to 1 (or 0 in an empty hour)."""
    shares = mix.shares[:, [mix.tasks.index(task) for task in tasks]]
    totals = shares.sum(axis=1, keepdims=True)
    return Mix(tuple(tasks), shares / np.where(totals > 0, totals, 1))


def _require_quality(profile: Profile, quality: str) -> None:
    """Raise ConfigError if the requests are too few or have no quality or cost under L0."""
    if len(profile.requests) < 2:
        raise ConfigError(
            f"{len(profile.requests)} requests of the profile have a known quality {quality!r} "
            "under every directive and a share above 0 in the mix; at least two are needed"
        )
    if not profile.quality(quality)[:, 0].any():
        raise ConfigError(f"no request has any quality {quality!r} under L0 to set a floor on")
    if (
        not profile.outcomes.energy_joules[:, 0].any()
        and not profile.outcomes.device_seconds[:, 0].any()
    ):
        raise ConfigError(
            "every request has energy_joules and device_seconds of 0 under L0: nothing to save"
        )
