"""`linucb`: a contextual bandit that learns while it serves (MABWiser's LinUCB)."""

from dataclasses import dataclass

import numpy as np
from mabwiser.mab import MAB, LearningPolicy

from agents.methods.method import ONLINE, Floats
from agents.scene import Scene
from envs.features import Array, Featurizer


@dataclass(frozen=True)
class LinUCB:
    """LinUCB (Li et al., 2010) on the reward of the environment, multipliers included.

    Requests come in the order of their times, in batches; of each it sees the outcome of
    the directive that it chose, and nothing else but the tasks' mean L0 quality and
    footprint, by which the reward is scaled. After each batch every task's multiplier
    follows the shortfall of its quality so far.

    Attributes:
        exploration: alpha of the upper confidence bound.
        batch: requests between updates; the first batch is chosen at random.
        rate: change of a multiplier per unit of shortfall.
    """

    exploration: float = 0.5
    batch: int = 64
    rate: float = 1.0
    first_multiplier: float = 2.0
    seed: int = 0
    knows = ONLINE

    def choose(self, scene: Scene) -> Floats:
        """See `Method`."""
        width = scene.scores.shape[1]
        bandit = MAB(
            list(range(width)), LearningPolicy.LinUCB(alpha=self.exploration), seed=self.seed
        )
        contexts = _scaled(scene.observations(Featurizer(sorted(scene.floors)), task_tags=True))
        reference = float(scene.means(scene.grams[:, 0]))
        tasks = list(scene.floors)
        index = np.array([tasks.index(str(task)) for task in scene.tasks])
        floors = np.array([scene.floors[task] for task in tasks])
        l0 = np.array([scene.means(scene.scores[:, 0], index == t) for t in range(len(tasks))])
        l0 = np.where(l0 > 0, l0, 1.0)
        multipliers = np.full(len(tasks), self.first_multiplier)
        earned, played = np.zeros(len(tasks)), np.zeros(len(tasks))
        actions = np.zeros(len(scene), dtype=np.int64)
        order = np.argsort(scene.times, kind="stable")
        rng = np.random.default_rng(self.seed)
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            if start == 0:
                actions[rows] = rng.integers(0, width, len(rows))
            else:
                actions[rows] = bandit.predict(contexts[rows])
            ratio = scene.scores[rows, actions[rows]] / l0[index[rows]]
            rewards = -scene.grams[rows, actions[rows]] / reference
            rewards += multipliers[index[rows]] * (ratio - floors[index[rows]])
            learn = bandit.fit if start == 0 else bandit.partial_fit
            learn(actions[rows].tolist(), rewards.tolist(), contexts[rows])
            np.add.at(earned, index[rows], ratio)
            np.add.at(played, index[rows], 1)
            shortfall = floors - earned / np.maximum(played, 1)
            multipliers = np.maximum(0, multipliers + self.rate * shortfall * (played > 0))
        chosen: Floats = np.eye(width)[actions]
        return chosen


def _scaled(observations: Array) -> Array:
    spread = observations.std(axis=0)
    scaled: Array = (observations - observations.mean(axis=0)) / np.where(spread > 1e-6, spread, 1)
    return scaled
