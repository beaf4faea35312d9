"""Multipliers of the per-task quality floors, driven by verdicts the policy does not train on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.config import PpoConfig
from agents.policy import Policy
from agents.prepared import Prepared
from envs.carbon import HOUR_SECONDS, IntensityTrace
from envs.errors import ConfigError
from envs.footprint import footprint_grams
from envs.reward import untagged
from envs.world import observe

Floats = NDArray[np.float64]
# Logarithms of the least and the greatest multiplier that is reached in the long run.
LEVELS = float(np.log(0.01)), float(np.log(100.0))
# Of one step: a bad first policy must not throw a multiplier far off.
MOST_SHORTFALL = 0.1


@dataclass(frozen=True)
class Validation:
    """A policy's expected figures on the profile's prompts, by their own verdicts.

    Attributes:
        grams_ratio: footprint relative to always L0.
        ratio_by_task: quality relative to L0; of each task where its tag is shown, and
            under `untagged(task)` where it is not.
        bound_by_task: what that ratio is at least, with the confidence asked for.
        share: mean probability of each directive.
        share_by_task: the same by task, tags shown or not as in `ratio_by_task`.
        worst_margin: least of (bound - floor) over tasks.
    """

    grams_ratio: float
    ratio_by_task: dict[str, float]
    bound_by_task: dict[str, float]
    share: tuple[float, ...]
    share_by_task: dict[str, list[float]]
    worst_margin: float


class Constraint:
    """Measures floors and moves the multipliers after them.

    A floor has to hold for clients who send their task's tag and for those who do not, each
    by itself.

    Args:
        prompts: with their verdicts.
        floors: least quality ratio by task.
        config: for its `confidence`, since on few prompts the best of many checkpoints is a
            lucky one, its `safety`, and how the multipliers move.
    """

    def __init__(self, prompts: "Prompts", floors: Mapping[str, float], config: PpoConfig) -> None:
        self._prompts = prompts
        self._config = config
        self._floors = {
            name: floor for task, floor in floors.items() for name in (task, untagged(task))
        }
        self._tasks = list(floors)
        self._levels = dict.fromkeys(self._floors, float(np.log(config.initial_multiplier)))
        for task in floors:
            if not prompts.right_at_l0(task) > 0:
                raise ConfigError(
                    f"task {task!r}: its floor cannot be checked, since no prompt of it is "
                    "answered right at L0; record more requests a task"
                )

    def measure(self, policy: Policy) -> Validation:
        """Expected figures of `policy`."""
        chance = self._prompts.chances(policy)
        ratios, bounds, shares = {}, {}, {}
        for task in self._tasks:
            for name, chosen in ((untagged(task), chance[0]), (task, chance[1])):
                ratio, error = self._prompts.ratio(self._judged_on(task), chosen)
                ratios[name] = ratio
                bounds[name] = ratio - self._config.confidence * error
                shares[name] = chosen[self._prompts.rows[task]].mean(axis=0).tolist()
        return Validation(
            self._prompts.grams_ratio(chance),
            ratios,
            bounds,
            tuple(float(x) for x in chance.mean(axis=(0, 1))),
            shares,
            min(bound - self._floors[task] for task, bound in bounds.items()),
        )

    def _judged_on(self, task: str) -> tuple[str, ...]:
        return (task,) if self._config.floor_on == "task" else tuple(self._tasks)

    @property
    def only_watches(self) -> bool:
        """Whether the multipliers are fixed, whatever is measured."""
        return self._config.fixed_multiplier is not None

    @property
    def multipliers(self) -> dict[str, float]:
        """By task, and by `untagged(task)`, at the start."""
        fixed = self._config.fixed_multiplier
        start = self._config.initial_multiplier if fixed is None else fixed
        return dict.fromkeys(self._floors, start)

    def moved(self, found: Validation) -> dict[str, float]:
        """The multipliers after a measurement, by a controller of their logarithms.

        ln lambda = sum over steps of rate * shortfall, plus damping * shortfall, where the
        shortfall is floor + safety - bound: PID Lagrangian (Stooke et al., 2020) without its
        derivative. The sum alone swings about the floor; in logarithms, since tasks' prices
        of quality differ a hundredfold.
        """
        if self.only_watches:
            return self.multipliers
        moved = {}
        for task, floor in self._floors.items():
            shortfall = floor + self._config.safety - found.bound_by_task[task]
            shortfall = float(np.clip(shortfall, -MOST_SHORTFALL, MOST_SHORTFALL))
            level = self._levels[task] + self._config.dual_rate * shortfall
            self._levels[task] = float(np.clip(level, *LEVELS))
            passing = self._config.dual_damping * shortfall
            moved[task] = float(np.exp(self._levels[task] + passing))
        return moved

    @property
    def levels(self) -> dict[str, float]:
        """Logarithms of the multipliers in the long run: what a checkpoint has to keep."""
        return dict(self._levels)

    def restore(self, levels: Mapping[str, float]) -> None:
        """Go on from a checkpoint's levels."""
        self._levels.update(levels)

    def violations(self, found: Validation) -> dict[str, float]:
        """By how much each floor is missed with its confidence; 0 where it is kept."""
        return {t: max(0.0, floor - found.bound_by_task[t]) for t, floor in self._floors.items()}

    def kept(self, found: Validation) -> bool:
        """Whether every floor holds with its confidence and safety."""
        return found.worst_margin >= self._config.safety


class Prompts:
    """A profile's prompts spread over the trace's hours, each without its task's tag and with."""

    def __init__(self, prepared: Prepared, trace: IntensityTrace, seed: int) -> None:
        profile, featurizer, parts = prepared.known, prepared.featurizer, prepared.parts
        self.scores = profile.quality(prepared.quality)
        known = ~np.isnan(self.scores).any(axis=1)
        self.rows = {task: profile.rows_of(task) & known for task in profile.tasks}
        count = len(self.scores)
        rng = np.random.default_rng(seed)
        # Evenly, in random order: chance leaves fewer gaps than with random hours.
        hours = np.linspace(0, len(trace.g_per_kwh), count, endpoint=False).astype(np.int64)
        times = [
            np.asarray(trace.start + HOUR_SECONDS * rng.permutation(hours), dtype=np.float64)
            for _ in parts
        ]
        self._observations = np.concatenate(
            [
                observe(featurizer, part, trace, time, np.zeros(count))
                for part, time in zip(parts, times, strict=True)
            ]
        )
        self._steerable = featurizer.steerable(self._observations)
        self._grams: Floats = np.stack(
            [
                footprint_grams(
                    profile.energy_joules, profile.device_seconds, trace.at(time)[:, None]
                )
                for time in times
            ]
        )

    def right_at_l0(self, task: str) -> float:
        """Sum of the quality under L0; 0 where the task has no prompts."""
        return float(self.scores[self.rows[task], 0].sum()) if task in self.rows else 0.0

    def chances(self, policy: Policy) -> Floats:
        """Probabilities without and with tags, shape (2, n, n_directives)."""
        chance = policy.allowed(self._observations, self._steerable)
        return chance.reshape(self._grams.shape)

    def grams_ratio(self, chance: Floats) -> float:
        """Expected footprint relative to always L0."""
        return float((self._grams * chance).sum() / self._grams[:, :, 0].sum())

    def ratio(self, tasks: Sequence[str], chance: Floats) -> tuple[float, float]:
        """Quality of tasks together, relative to L0, under chances of shape (n, n_directives).

        With its standard error, by the delta method.
        """
        rows = np.any([self.rows[task] for task in tasks], axis=0)
        kept = (self.scores[rows] * chance[rows]).sum(axis=1)
        reference = self.scores[rows, 0]
        ratio = float(kept.sum() / reference.sum())
        spread = float((kept - ratio * reference).std())
        return ratio, spread * float(np.sqrt(len(kept))) / float(reference.sum())
