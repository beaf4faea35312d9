"""The reward: less carbon, with each task's quality above its floor."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from envs.arrays import BoolArray, Float64Array, Int64Array, StrArray
from envs.carbon.footprint import EMBODIED_G_PER_SECOND, footprint_grams
from envs.outcomes.floors import CONSTANT_FLOORS, FloorSchedule, untagged_name
from envs.outcomes.limits import TAIL, Limit
from envs.outcomes.objective import GRAMS_ALONE, Objective
from envs.outcomes.outcome import Outcomes
from envs.outcomes.prices import Prices
from envs.outcomes.profile import Profile


def latency_excess(task: str, limit: Limit, seconds: Float64Array) -> dict[str, Float64Array]:
    """Return each request's excess over each limit; a limit holds if its mean excess is <= 0.

    Args:
        seconds: latencies, s, any shape.

    Returns:
        "TASK mean": latency / limit - 1. "TASK p95": 1 if the latency exceeds the limit, else 0,
        minus the share of requests that may exceed it. Each has the shape of `seconds`.
    """
    excess = {}
    if limit.mean_seconds is not None:
        excess[f"{task} mean"] = seconds / limit.mean_seconds - 1
    if limit.p95_seconds is not None:
        excess[f"{task} p95"] = (seconds > limit.p95_seconds).astype(np.float64) - TAIL
    return excess


@dataclass
class Reward:
    """The reward of answered requests:

    reward = -cost + lambda_task * (quality/quality_L0_task - floor_task)
    - latency_price * latency overshoot, summed over the task's latency limits, if any
    (a Lagrangian: Ray et al., "Benchmarking Safe Exploration", 2019, with one Lagrange multiplier
    per task and constraint). The cost is footprint/footprint_ref, unless `objective` weighs
    seconds and money too. Training draws the multipliers as `Prices`, and the reward is then
    multiplied by their `scale`.

    Attributes:
        footprint_ref_grams: the mean L0 footprint at mean intensity, gCO2e; a constant, so that
            dirty hours weigh more.
        quality_l0: task -> mean quality under L0; other tasks have no quality term.
        floors: task -> least ratio of quality to the quality under L0.
        multipliers: constraint name, from `floor_schedule.names`, -> Lagrange multiplier >= 0,
            default 1. `untagged_name(name)` is the key for requests without a task tag, which are
            harder to tell apart and have their own multiplier (default: that of `name`).
        quality: "correct" or "preference".
        pue: power usage effectiveness of the data centre.
        embodied_g_per_second: embodied carbon per second of the device's time, gCO2e/s.
        limits: task -> latency limits.
        latency_prices: name, as in `latency_excess`, -> Lagrange multiplier >= 0, default 0.
        floor_schedule: how the floors follow the grid's intensity.
        objective: weights of the costs.
    """

    footprint_ref_grams: float
    quality_l0: dict[str, float]
    floors: dict[str, float]
    multipliers: dict[str, float] = field(default_factory=dict)
    quality: str = "correct"
    pue: float = 1.0
    embodied_g_per_second: float = EMBODIED_G_PER_SECOND
    limits: dict[str, Limit] = field(default_factory=dict)
    latency_prices: dict[str, float] = field(default_factory=dict)
    floor_schedule: FloorSchedule = CONSTANT_FLOORS
    objective: Objective = GRAMS_ALONE

    @property
    def constraints(self) -> tuple[str, ...]:
        """The names of the constraints, as in `costs`: the tasks with a floor, then the limits."""
        limits = [
            name
            for task, limit in self.limits.items()
            for name in latency_excess(task, limit, np.zeros(0))
        ]
        return (*self.floors, *limits)

    def set_multipliers(self, prices: Mapping[str, float]) -> None:
        """Set the given latency prices and Lagrange multipliers, by constraint name."""
        for name, price in prices.items():
            target = self.latency_prices if name in self.latency_prices else self.multipliers
            target[name] = price

    def grams(self, outcomes: Outcomes, intensity_g_per_kwh: Float64Array) -> Float64Array:
        """Return the footprint of each outcome, gCO2e, shape (n,)."""
        return footprint_grams(
            outcomes.energy_joules,
            outcomes.device_seconds,
            intensity_g_per_kwh,
            pue=self.pue,
            embodied_g_per_second=self.embodied_g_per_second,
        )

    def terms(
        self,
        tasks: StrArray,
        outcomes: Outcomes,
        intensity_g_per_kwh: Float64Array,
        tagged: BoolArray,
        prices: Prices | None = None,
    ) -> dict[str, Float64Array]:
        """Return the reward's addends by name, each of shape (n,); their sum is the reward.

        Args:
            tasks: task of each request, shape (n,).
            outcomes: outcomes of the n requests.
            intensity_g_per_kwh: carbon intensity for each request, gCO2e/kWh, shape (n,).
            tagged: whether the observation included the task tag, shape (n,).
            prices: prices that were drawn for the requests; None for those in force.
        """
        bands = self.floor_schedule.band(intensity_g_per_kwh)
        drawn = prices is not None
        prices = prices or self.prices(tasks, intensity_g_per_kwh, tagged)
        grams = self.grams(outcomes, intensity_g_per_kwh)
        costs = self.objective.beside_grams(outcomes, self.pue)
        terms = {
            "footprint": -self.objective.grams / self.footprint_ref_grams * grams,
            **{name: -cost for name, cost in costs.items()},
            "quality": self._quality_term(
                tasks, getattr(outcomes, self.quality), bands, prices.quality
            ),
            "latency": self._latency_term(
                tasks, outcomes.latency_seconds, prices.latency if drawn else None
            ),
        }
        if drawn:
            scale = prices.scale
            for term in terms.values():
                term *= scale
        return terms

    def prices(
        self, tasks: StrArray, intensity_g_per_kwh: Float64Array, tagged: BoolArray
    ) -> Prices:
        """Return the prices in force; that of a task's latency is the mean over its limits.

        Args:
            tasks, intensity_g_per_kwh, tagged: see `terms`.
        """
        bands = self.floor_schedule.band(intensity_g_per_kwh)
        quality, latency = np.zeros(len(tasks)), np.zeros(len(tasks))
        for task, reference in self.quality_l0.items():
            rows = np.flatnonzero(tasks == task)
            if reference > 0 and rows.size:
                names = self.floor_schedule.names(task)
                prices = np.array([self._prices(name) for name in names])
                quality[rows] = prices[bands[rows], tagged[rows].astype(np.int64)]
        for task, limit in self.limits.items():
            of_limits = [
                self.latency_prices.get(name, 0.0)
                for name in latency_excess(task, limit, np.zeros(0))
            ]
            latency[tasks == task] = np.mean(of_limits)
        return Prices(quality, latency)

    def costs(
        self, tasks: StrArray, outcomes: Outcomes, intensity_g_per_kwh: Float64Array
    ) -> dict[str, Float64Array]:
        """Return each constraint's cost for n requests, shape (n,) each; its mean must be <= 0.

        A floor's cost is the floor less the quality relative to L0, for requests of its task; a
        latency limit's is the excess (`latency_excess`). Requests of other tasks, and unknown
        qualities, cost 0. Keys: the task for a floor, and the limits' names.

        Args:
            tasks, outcomes, intensity_g_per_kwh: see `terms`.
        """
        bands = self.floor_schedule.band(intensity_g_per_kwh)
        costs = {task: np.zeros(len(tasks)) for task in self.floors}
        for task, rows, margin in self._margins(tasks, getattr(outcomes, self.quality), bands):
            if task in costs:
                costs[task][rows] = 0.0 - margin
        for task, limit in self.limits.items():
            rows = tasks == task
            for name, excess in latency_excess(task, limit, outcomes.latency_seconds[rows]).items():
                costs[name] = np.zeros(len(tasks))
                costs[name][rows] = excess
        return costs

    def _quality_term(
        self,
        tasks: StrArray,
        quality: Float64Array,
        bands: Int64Array,
        prices: Float64Array,
    ) -> Float64Array:
        term = np.zeros(len(quality))
        for _, rows, margin in self._margins(tasks, quality, bands):
            term[rows] = prices[rows] * margin
        return term

    def _prices(self, name: str) -> tuple[float, float]:
        """Return the multipliers of a constraint without and with the task's tag."""
        price = self.multipliers.get(name, 1.0)
        return self.multipliers.get(untagged_name(name), price), price

    def _margins(
        self, tasks: StrArray, quality: Float64Array, bands: Int64Array
    ) -> Iterator[tuple[str, Int64Array, Float64Array]]:
        """Yield each task that has a quality, its rows, and their margins over the floor.

        An unknown quality has a margin of 0.
        """
        for task, reference in self.quality_l0.items():
            rows = np.flatnonzero(tasks == task)
            if reference <= 0 or not rows.size:
                continue
            floor, schedule = self.floors.get(task, 0.0), self.floor_schedule
            floors = np.array([schedule.floor(floor, i) for i in range(len(schedule.places))])
            margin = quality[rows] / reference - floors[bands[rows]]
            margin[np.isnan(margin)] = 0.0
            yield task, rows, margin

    def _latency_term(
        self, tasks: StrArray, seconds: Float64Array, prices: Float64Array | None
    ) -> Float64Array:
        term = np.zeros(len(seconds))
        for task, limit in self.limits.items():
            rows = tasks == task
            for name, excess in latency_excess(task, limit, seconds[rows]).items():
                price = self.latency_prices.get(name, 0.0) if prices is None else prices[rows]
                term[rows] -= price * excess
        return term


def reward_from_profile(
    profile: Profile,
    mean_intensity_g_per_kwh: float,
    floors: dict[str, float],
    quality: str = "correct",
) -> Reward:
    """Return a reward with the profile's L0 means as references.

    Args:
        mean_intensity_g_per_kwh: carbon intensity of the reference footprint, gCO2e/kWh.
        floors: task -> least ratio of quality to the quality under L0. Floors of tasks without
            a known quality are dropped.
        quality: "correct" or "preference".
    """
    scores = profile.quality(quality)[:, 0]
    grams = footprint_grams(
        float(profile.outcomes.energy_joules[:, 0].mean()),
        float(profile.outcomes.device_seconds[:, 0].mean()),
        mean_intensity_g_per_kwh,
    )
    means = {}
    for task in profile.tasks:
        known = scores[profile.rows_of(task) & ~np.isnan(scores)]
        if known.size:
            means[task] = float(known.mean())
    used_floors = {task: floors[task] for task in means if task in floors}
    return Reward(grams, means, used_floors, dict.fromkeys(used_floors, 1.0), quality)
