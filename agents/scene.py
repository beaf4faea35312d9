"""The scene: requests at hours, the same for every method that is compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from envs.carbon import HOUR_SECONDS, IntensityTrace
from envs.errors import ConfigError
from envs.features import Array, Featurizer
from envs.footprint import footprint_grams
from envs.mix import Mix
from envs.profile import Profile
from envs.world import observe, request_parts

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """n requests, each at an hour in a zone, whose outcomes under all D directives are known.

    Attributes:
        profile: the requests, in the scene's order.
        traces: intensity of each zone.
        zone: shape (n,), index into `traces`.
        times: shape (n,), Unix s.
        weights: shape (n,), what a request counts for; their mean is 1.
        floors: least quality ratio of each task.
        quality: "correct" or "preference": the quality that the floors are on.
        hours: shape (n,), hours from the window's start.
    """

    profile: Profile
    traces: tuple[IntensityTrace, ...]
    zone: NDArray[np.int64]
    times: Floats
    weights: Floats
    floors: Mapping[str, float]
    quality: str
    hours: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.times)

    @cached_property
    def intensity(self) -> Floats:
        """gCO2e/kWh at each request, shape (n,)."""
        found = np.empty(len(self))
        for index, trace in enumerate(self.traces):
            here = self.zone == index
            found[here] = trace.at(self.times[here])
        return found

    @cached_property
    def grams(self) -> Floats:
        """Footprint of each request under each directive, gCO2e, shape (n, D)."""
        return footprint_grams(
            self.profile.energy_joules, self.profile.device_seconds, self.intensity[:, None]
        )

    @property
    def scores(self) -> Floats:
        """Quality under each directive, shape (n, D); no NaN."""
        return self.profile.quality(self.quality)

    @cached_property
    def tasks(self) -> NDArray[np.str_]:
        """Task of each request, shape (n,)."""
        return np.array([request.task for request in self.profile.requests])

    @cached_property
    def moments(self) -> NDArray[np.int64]:
        """One number for each zone and hour that occurs, shape (n,), counted from 0."""
        key = np.stack([self.zone, self.hours])
        _, moments = np.unique(key, axis=1, return_inverse=True)
        return moments.ravel()

    def rows_of(self, task: str) -> NDArray[np.bool_]:
        """Mask of a task's requests, shape (n,)."""
        mask: NDArray[np.bool_] = self.tasks == task
        return mask

    def means(self, values: Floats, rows: NDArray[np.bool_] | None = None) -> Floats:
        """Weighted means over requests, shape (n, ...) -> (...)."""
        chosen = slice(None) if rows is None else rows
        return np.average(values[chosen], axis=0, weights=self.weights[chosen])

    def least_score(self) -> float:
        """The average quality that the tasks' floors ask for, were they one floor."""
        floors = np.array([self.floors[str(task)] for task in self.tasks])
        return float(self.means(floors * self.scores[:, 0]))

    def observations(self, featurizer: Featurizer, task_tags: bool) -> Array:
        """What a policy sees of each request, no load in flight, shape (n, n_features)."""
        parts = request_parts(featurizer, self.profile.requests, task_tags)
        seen = np.empty((len(self), len(featurizer.names)), dtype=np.float32)
        for index, trace in enumerate(self.traces):
            here = self.zone == index
            if here.any():
                idle = np.zeros(int(here.sum()))
                seen[here] = observe(featurizer, parts[here], trace, self.times[here], idle)
        return seen


def spread(
    profile: Profile,
    traces: Sequence[IntensityTrace],
    floors: Mapping[str, float],
    *,
    quality: str,
    start_hour: int | None = None,
    hours: int = 720,
    mix: Mix | None = None,
    seed: int = 0,
) -> Scene:
    """Every request of the profile once, spread evenly over the hours of all zones.

    Args:
        floors: by task.
        start_hour: first hour of the window in each trace; None takes each trace whole.
        hours: length of the window.
        mix: share of each task by hour of the window, reached by weighting the requests;
            default: the profile's own shares.
        seed: of the order in which the requests are spread.

    Raises:
        ConfigError: too few requests have a known quality, or none has any under L0.
        DataError: the window leaves a trace; the mix names a task without requests.
    """
    scores = profile.quality(quality)
    known = ~np.isnan(scores).any(axis=1)
    if known.sum() < 2:
        raise ConfigError(
            f"{known.sum()} requests of the profile have a known quality {quality!r} under every "
            "directive; two or more are needed"
        )
    if not scores[known, 0].any():
        raise ConfigError(f"no request has any quality {quality!r} under L0 that could be kept")
    order = np.random.default_rng(seed).permutation(np.flatnonzero(known))
    windows = [
        t.window_times(0, len(t.g_per_kwh))
        if start_hour is None
        else t.window_times(start_hour, hours)
        for t in traces
    ]
    slots = [(z, h) for z, times in enumerate(windows) for h in range(len(times))]
    taken = ((np.arange(len(order)) + 0.5) * len(slots) / len(order)).astype(np.int64)
    zone, hour = np.array(slots)[taken].T
    # In the middle of the hour: no rounding can move it into the next.
    times = np.array([windows[z][h] for z, h in zip(zone, hour, strict=True)]) + HOUR_SECONDS / 2
    chosen = profile.select(order)
    weights = np.ones(len(order))
    if mix is not None:
        tasks = list(chosen.tasks)
        index = np.array([tasks.index(r.task) for r in chosen.requests])
        own = np.bincount(index) / len(index)
        asked = mix.aligned(tasks).at(hour)
        weights = asked[np.arange(len(index)), index] / own[index]
        weights /= weights.mean()
    return Scene(
        chosen,
        tuple(traces),
        zone,
        times,
        weights,
        {task: floors[task] for task in chosen.tasks},
        quality,
        hour,
    )
