"""`linucb`: a contextual bandit that learns while it serves (MABWiser's LinUCB)."""

from dataclasses import dataclass

import numpy as np
from mabwiser.mab import MAB, LearningPolicy

from agents.methods.method import ONLINE
from agents.methods.scene import Scene
from envs.arrays import Float32Array, Float64Array, Int64Array
from envs.requests.features import Featurizer

# Requests' worth of the overall mean in a task's mean L0 quality, and that mean's least value.
PRIOR = 2.0
LEAST_QUALITY = 0.05
CLIP = 5.0


@dataclass(frozen=True)
class LinUCB:
    """LinUCB (Li et al., 2010) on the reward of the environment, multipliers included.

    Requests come in the order of their times, in batches; of each it sees the outcome of
    the directive that it chose, and nothing else. The tasks' L0 quality and the footprint
    by which rewards are scaled are means of its own L0 choices so far. After each batch
    every task's multiplier follows the shortfall of its quality so far.

    Attributes:
        exploration: alpha of the upper confidence bound.
        batch: requests between updates; the first batch gets every directive in turn.
        rate: change of a multiplier per unit of shortfall.
    """

    exploration: float = 0.5
    batch: int = 64
    rate: float = 1.0
    first_multiplier: float = 2.0
    seed: int = 0
    knows = ONLINE

    def choose(self, scene: Scene) -> Float64Array:
        """See `Method`."""
        width = scene.scores.shape[1]
        bandit = MAB(
            list(range(width)), LearningPolicy.LinUCB(alpha=self.exploration), seed=self.seed
        )
        order = np.argsort(scene.times, kind="stable")
        observations = scene.observations(Featurizer(sorted(scene.floors)), task_tags=True)
        contexts = _scaled(observations, order[: self.batch])
        progress = _Progress(scene, self.first_multiplier)
        actions = np.zeros(len(scene), dtype=np.int64)
        rng = np.random.default_rng(self.seed)
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            if start == 0:
                # Every directive in turn: L0's quality and footprint have to be seen.
                actions[rows] = rng.permutation(np.arange(len(rows)) % width)
            else:
                actions[rows] = bandit.predict(contexts[rows])
            progress.play(rows, actions[rows])
            rewards = progress.rewards(rows, actions[rows])
            learn = bandit.fit if start == 0 else bandit.partial_fit
            learn(actions[rows].tolist(), rewards.tolist(), contexts[rows])
            progress.price(self.rate)
        chosen: Float64Array = np.eye(width)[actions]
        return chosen


class _Progress:
    """What the bandit has seen of its own choices, and the multipliers that follow from it."""

    def __init__(self, scene: Scene, multiplier: float) -> None:
        self._scene = scene
        count = len(scene.floors)
        self._task = scene.task_index
        self._floors = np.array(list(scene.floors.values()))
        self._multipliers = np.full(count, multiplier)
        # By task: requests and quality, of all choices and of those of L0.
        self._played, self._earned = np.zeros(count), np.zeros(count)
        self._played_l0, self._earned_l0 = np.zeros(count), np.zeros(count)
        self._grams_l0 = 0.0

    def play(self, rows: Int64Array, actions: Int64Array) -> None:
        """Count the outcomes of choices."""
        task, scores = self._task[rows], self._scene.scores[rows, actions]
        left_alone = actions == 0
        np.add.at(self._played, task, 1)
        np.add.at(self._earned, task, scores)
        np.add.at(self._played_l0, task, left_alone)
        np.add.at(self._earned_l0, task, scores * left_alone)
        self._grams_l0 += float(self._scene.grams[rows[left_alone], 0].sum())

    def rewards(self, rows: Int64Array, actions: Int64Array) -> Float64Array:
        """Rewards of choices, as far as their scale is known by now, shape (len(rows),)."""
        task, scores = self._task[rows], self._scene.scores[rows, actions]
        grams = self._scene.grams[rows, actions] / self._grams_at_l0()
        ratio = scores / self._quality_at_l0()[task]
        worth: Float64Array = self._multipliers[task] * (ratio - self._floors[task]) - grams
        return worth

    def price(self, rate: float) -> None:
        """Move the multipliers after the shortfall so far."""
        ratio = self._earned / np.maximum(self._played, 1) / self._quality_at_l0()
        shortfall = (self._floors - ratio) * (self._played > 0)
        self._multipliers = np.maximum(0, self._multipliers + rate * shortfall)

    def _quality_at_l0(self) -> Float64Array:
        overall = self._earned_l0.sum() / max(1.0, self._played_l0.sum())
        # A task's own mean, drawn towards that of all tasks while it has few requests.
        mean: Float64Array = (self._earned_l0 + PRIOR * overall) / (self._played_l0 + PRIOR)
        return np.maximum(mean, LEAST_QUALITY)

    def _grams_at_l0(self) -> float:
        return max(self._grams_l0 / max(1.0, float(self._played_l0.sum())), 1e-12)


def _scaled(observations: Float32Array, first: Int64Array) -> Float32Array:
    """Scaled by the mean and spread of the first requests, shape (n, n_features)."""
    spread = observations[first].std(axis=0)
    centred = observations - observations[first].mean(axis=0)
    scaled: Float32Array = np.clip(centred / np.where(spread > 1e-6, spread, 1), -CLIP, CLIP)
    return scaled
