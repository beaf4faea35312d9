"""The reward: carbon emitted, against quality kept above each task's floor."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from envs.arrays import BoolArray, Float64Array, Int64Array, StrArray
from envs.carbon.footprint import EMBODIED_G_PER_SECOND, footprint_grams
from envs.outcomes.floors import CONSTANT_FLOORS, FloorSchedule
from envs.outcomes.limits import TAIL, Limit
from envs.outcomes.outcome import Outcomes
from envs.outcomes.profile import Profile


def untagged(task: str) -> str:
    """The name of a task's requests that do not show it."""
    return f"{task} (untagged)"


def overshoots(task: str, limit: Limit, seconds: Float64Array) -> dict[str, Float64Array]:
    """By how much each request exceeds each limit; a limit is kept if the mean is at most 0.

    Args:
        seconds: any shape.

    Returns:
        "TASK mean": latency over its limit, less 1; "TASK p95": 1 where it is too long,
        else 0, less the share that may be. Each of the shape of `seconds`.
    """
    found = {}
    if limit.mean_seconds is not None:
        found[f"{task} mean"] = seconds / limit.mean_seconds - 1
    if limit.p95_seconds is not None:
        found[f"{task} p95"] = (seconds > limit.p95_seconds).astype(np.float64) - TAIL
    return found


@dataclass
class Reward:
    """reward = -footprint/footprint_ref + lambda_task * (quality/quality_L0_task - floor_task)
    - the price of what a task's latency takes beyond its limits, if it has any
    (PPO-Lagrangian: Ray et al., "Benchmarking Safe Exploration", 2019, with one multiplier a
    task and constraint).

    Attributes:
        footprint_ref_grams: one constant, the mean L0 footprint at mean intensity, so that
            a dirty hour weighs more.
        quality_l0: per task, mean quality under L0; tasks not in it have no quality term.
        floors: per task, the least ratio of quality to L0's.
        floor_schedule: how they follow the grid.
        multipliers: per task (and band, by `floor_schedule.names`), lambda >= 0, default 1; the one
            part that training changes.
            `untagged(task)` is the key for requests that do not show their task, which are
            harder to tell apart and pay a price of their own (default the task's).
        quality: "correct" or "preference".
        limits: per task, on latency.
        latency_prices: by the names of `overshoots`, >= 0, default 0.
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

    def set_prices(self, prices: Mapping[str, float]) -> None:
        """Move multipliers and latency prices, by their names."""
        for name, price in prices.items():
            own = self.latency_prices if name in self.latency_prices else self.multipliers
            own[name] = price

    def grams(self, outcomes: Outcomes, intensity_g_per_kwh: Float64Array) -> Float64Array:
        """Footprint of each outcome, gCO2e, shape (n,)."""
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
    ) -> dict[str, Float64Array]:
        """The named addends, each of shape (n,); their sum is the reward.

        Args:
            tasks: of each request, shape (n,).
            tagged: whether its observation showed that task, shape (n,).
        """
        bands = self.floor_schedule.band(intensity_g_per_kwh)
        return {
            "footprint": -self.grams(outcomes, intensity_g_per_kwh) / self.footprint_ref_grams,
            "quality": self._kept(tasks, getattr(outcomes, self.quality), bands, tagged),
            "latency": self._latency(tasks, outcomes.latency_seconds),
        }

    def _kept(
        self,
        tasks: StrArray,
        quality: Float64Array,
        bands: Int64Array,
        tagged: BoolArray,
    ) -> Float64Array:
        kept = np.zeros(len(quality))
        for task in np.unique(tasks):
            reference = self.quality_l0.get(task, 0.0)
            if reference <= 0:
                continue
            for band, name in enumerate(self.floor_schedule.names(task)):
                rows = (tasks == task) & (bands == band)
                price = self.multipliers.get(name, 1.0)
                weight = np.where(tagged[rows], price, self.multipliers.get(untagged(name), price))
                floor = self.floor_schedule.floor(self.floors.get(task, 0.0), band)
                kept[rows] = weight * np.nan_to_num(quality[rows] / reference - floor)
        return kept

    def _latency(self, tasks: StrArray, seconds: Float64Array) -> Float64Array:
        term = np.zeros(len(seconds))
        for task, limit in self.limits.items():
            rows = tasks == task
            for name, excess in overshoots(task, limit, seconds[rows]).items():
                term[rows] -= self.latency_prices.get(name, 0.0) * excess
        return term


def reward_from_profile(
    profile: Profile,
    mean_intensity_g_per_kwh: float,
    floors: dict[str, float],
    quality: str = "correct",
) -> Reward:
    """A reward whose references are the profile's L0 means."""
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
    kept = {task: floors[task] for task in means if task in floors}
    return Reward(grams, means, kept, dict.fromkeys(kept, 1.0), quality)
