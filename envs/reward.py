"""The reward: carbon emitted, against quality kept above each task's floor."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from envs.footprint import EMBODIED_G_PER_SECOND, footprint_grams
from envs.outcome import Floats, Outcomes
from envs.profile import Profile


def untagged(task: str) -> str:
    """The name of a task's requests that do not show it."""
    return f"{task} (untagged)"


@dataclass
class Reward:
    """reward = -footprint/footprint_ref + lambda_task * (quality/quality_L0_task - floor_task)
    - latency_weight * latency/latency_ref (PPO-Lagrangian: Ray et al., "Benchmarking Safe
    Exploration", 2019, with one multiplier a task).

    Attributes:
        footprint_ref_grams: one constant, the mean L0 footprint at mean intensity, so that
            a dirty hour weighs more.
        quality_l0: per task, mean quality under L0; tasks not in it have no quality term.
        floors: per task, the least ratio of quality to L0's.
        multipliers: per task, lambda >= 0, default 1; the one part that training changes.
            `untagged(task)` is the key for requests that do not show their task, which are
            harder to tell apart and pay a price of their own (default the task's).
        quality: "correct" or "preference".
        latency_weight, latency_ref_seconds: price of a latency of `latency_ref_seconds`.
    """

    footprint_ref_grams: float
    quality_l0: dict[str, float]
    floors: dict[str, float]
    multipliers: dict[str, float] = field(default_factory=dict)
    quality: str = "correct"
    pue: float = 1.0
    embodied_g_per_second: float = EMBODIED_G_PER_SECOND
    latency_weight: float = 0.0
    latency_ref_seconds: float = 1.0

    def grams(self, outcomes: Outcomes, intensity_g_per_kwh: Floats) -> Floats:
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
        tasks: NDArray[np.str_],
        outcomes: Outcomes,
        intensity_g_per_kwh: Floats,
        tagged: NDArray[np.bool_],
    ) -> dict[str, Floats]:
        """The named addends, each of shape (n,); their sum is the reward.

        Args:
            tasks: of each request, shape (n,).
            tagged: whether its observation showed that task, shape (n,).
        """
        quality: Floats = getattr(outcomes, self.quality)
        kept = np.zeros(len(outcomes))
        for task in np.unique(tasks):
            reference = self.quality_l0.get(task, 0.0)
            if reference <= 0:
                continue
            rows = tasks == task
            price = self.multipliers.get(task, 1.0)
            weight = np.where(tagged[rows], price, self.multipliers.get(untagged(task), price))
            ratio = quality[rows] / reference - self.floors.get(task, 0.0)
            kept[rows] = weight * np.nan_to_num(ratio)
        return {
            "footprint": -self.grams(outcomes, intensity_g_per_kwh) / self.footprint_ref_grams,
            "quality": kept,
            "latency": -self.latency_weight * outcomes.latency_seconds / self.latency_ref_seconds,
        }


def reward_from_profile(
    profile: Profile,
    mean_intensity_g_per_kwh: float,
    floors: dict[str, float],
    quality: str = "correct",
) -> Reward:
    """A reward whose references are the profile's L0 means."""
    scores = profile.quality(quality)[:, 0]
    grams = footprint_grams(
        float(profile.energy_joules[:, 0].mean()),
        float(profile.device_seconds[:, 0].mean()),
        mean_intensity_g_per_kwh,
    )
    means = {}
    for task in profile.tasks:
        known = scores[profile.rows_of(task) & ~np.isnan(scores)]
        if known.size:
            means[task] = float(known.mean())
    kept = {task: floors[task] for task in means if task in floors}
    return Reward(grams, means, kept, dict.fromkeys(kept, 1.0), quality)
