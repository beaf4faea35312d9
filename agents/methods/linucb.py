"""`linucb`: a contextual bandit that learns online, while serving (MABWiser's LinUCB)."""

from dataclasses import dataclass

import numpy as np
from mabwiser.mab import MAB, LearningPolicy

from agents.methods.method import ONLINE
from agents.methods.scene import Scene
from envs.arrays import Float32Array, Float64Array, Int64Array
from envs.requests.features import Featurizer

# Weight, in requests, of the overall mean in the estimate of a task's mean quality under L0.
PRIOR = 2.0
# Lower bound on that estimate, since rewards are divided by it.
LEAST_QUALITY = 0.05
# Contexts are clipped to this many standard deviations.
CLIP = 5.0


@dataclass(frozen=True)
class LinUCB:
    """LinUCB (Li et al., 2010) on the environment's reward, with Lagrange multipliers.

    Requests arrive in batches, ordered by time. The bandit observes only the outcome of the
    directive that it chose. Rewards are scaled by estimates of each task's quality and of the
    footprint under L0, which are means over the bandit's own L0 choices so far. After each batch,
    a dual update moves every task's multiplier by the shortfall of its quality so far.

    Attributes:
        exploration: alpha of the upper confidence bound.
        batch: requests between updates; in the first batch all directives are equally frequent.
        rate: change of a multiplier per unit of shortfall.
        first_multiplier: multiplier of every task at the start.
        confidence: number of standard errors by which a task's quality so far must clear its
            floor.
        seed: seed of the bandit and of the first batch.
    """

    exploration: float = 0.5
    batch: int = 64
    rate: float = 1.0
    first_multiplier: float = 2.0
    confidence: float = 0.0
    seed: int = 0
    knows = ONLINE

    def choose(self, scene: Scene) -> Float64Array:
        """Return the chosen directives as one-hot rows, shape (n, D)."""
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
                # Every directive equally often: estimates under L0 need L0 outcomes.
                actions[rows] = rng.permutation(np.arange(len(rows)) % width)
            else:
                actions[rows] = bandit.predict(contexts[rows])
            progress.play(rows, actions[rows])
            rewards = progress.rewards(rows, actions[rows])
            learn = bandit.fit if start == 0 else bandit.partial_fit
            learn(actions[rows].tolist(), rewards.tolist(), contexts[rows])
            progress.price(self.rate, self.confidence)
        one_hot: Float64Array = np.eye(width)[actions]
        return one_hot


class _Progress:
    """Statistics of the bandit's own choices, and the multipliers that depend on them.

    Args:
        scene: the requests and their outcomes.
        multiplier: Lagrange multiplier of every task at the start.
    """

    def __init__(self, scene: Scene, multiplier: float) -> None:
        self._scene = scene
        count = len(scene.floors)
        self._task = scene.task_index
        self._floors = np.array(list(scene.floors.values()))
        self._multipliers = np.full(count, multiplier)
        # Number of requests and total quality by task: of all choices, and of L0 choices.
        self._played, self._earned = np.zeros(count), np.zeros(count)
        self._squares = np.zeros(count)
        self._played_l0, self._earned_l0 = np.zeros(count), np.zeros(count)
        self._grams_l0 = 0.0

    def play(self, rows: Int64Array, actions: Int64Array) -> None:
        """Add the outcomes of a batch of choices."""
        task, scores = self._task[rows], self._scene.scores[rows, actions]
        is_l0 = actions == 0
        np.add.at(self._played, task, 1)
        np.add.at(self._earned, task, scores)
        np.add.at(self._squares, task, scores**2)
        np.add.at(self._played_l0, task, is_l0)
        np.add.at(self._earned_l0, task, scores * is_l0)
        self._grams_l0 += float(self._scene.grams[rows[is_l0], 0].sum())

    def rewards(self, rows: Int64Array, actions: Int64Array) -> Float64Array:
        """Return the rewards of choices under the current estimates, shape (len(rows),)."""
        task, scores = self._task[rows], self._scene.scores[rows, actions]
        grams = self._scene.grams[rows, actions] / self._grams_at_l0()
        ratio = scores / self._quality_at_l0()[task]
        rewards: Float64Array = self._multipliers[task] * (ratio - self._floors[task]) - grams
        return rewards

    def price(self, rate: float, confidence: float) -> None:
        """Dual update: move the multipliers by the shortfall of quality so far."""
        played = np.maximum(self._played, 1)
        mean = self._earned / played
        error = np.sqrt(np.maximum(self._squares / played - mean**2, 0) / played)
        ratio = (mean - confidence * error) / self._quality_at_l0()
        shortfall = (self._floors - ratio) * (self._played > 0)
        self._multipliers = np.maximum(0, self._multipliers + rate * shortfall)

    def _quality_at_l0(self) -> Float64Array:
        overall = self._earned_l0.sum() / max(1.0, self._played_l0.sum())
        # Shrinkage: the mean of a task with few requests is drawn towards the overall mean.
        mean: Float64Array = (self._earned_l0 + PRIOR * overall) / (self._played_l0 + PRIOR)
        return np.maximum(mean, LEAST_QUALITY)

    def _grams_at_l0(self) -> float:
        return max(self._grams_l0 / max(1.0, float(self._played_l0.sum())), 1e-12)


def _scaled(observations: Float32Array, first: Int64Array) -> Float32Array:
    """Return observations standardised by the `first` requests' statistics, (n, n_features)."""
    spread = observations[first].std(axis=0)
    centred = observations - observations[first].mean(axis=0)
    scaled: Float32Array = np.clip(centred / np.where(spread > 1e-6, spread, 1), -CLIP, CLIP)
    return scaled
