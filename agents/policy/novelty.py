"""Tells requests that are unlike all that a policy was trained on.

The distances are Mahalanobis' from each task of the training, with one covariance for all tasks
(Lee et al., 2018, https://arxiv.org/abs/1807.03888), of the request's structure, of what its words
foretell, and of the share of its words that training did not know. A task's limit is the quantile
of split-conformal prediction (Vovk et al., 2005) over its training prompts, whose own fold was left
out: of new prompts of the task, a share of `FALSE_ALARM` at most lies beyond it in the mean. A
request beyond the limits of all tasks is unlike the training.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from envs.arrays import AnyArray, Float32Array, Float64Array, Int64Array
from envs.requests.features import Featurizer
from envs.requests.projection import EncodedProjection, WordProjection
from envs.requests.structure import STRUCTURE

FALSE_ALARM = 0.01
# They tell how callers write, and not what about: a profile of single questions has no turns.
_LEFT_OUT = ("turns", "system")
# Fewest prompts of a task that a limit can be taken from. With n, its false alarms are 1 / (n + 1)
# if that is more than `FALSE_ALARM`.
_FEWEST = 20
# Share of the mean variance that is added to each one, for directions that hardly vary.
_RIDGE = 1e-3
MEANS, ROOT = "novelty.means", "novelty.root"


@dataclass(frozen=True)
class Novelty:
    """The limits of what is like the training.

    Attributes:
        columns: the d inputs that count, by index: see `inputs_of`.
        means: mean of each of T tasks, shape (T, d).
        root: turns differences into ones of unit covariance, shape (d, d).
        limits: greatest squared distance of a request that is like a task, shape (T,).
        false_alarm: greatest share of a task's new prompts beyond its limit, in the mean.
    """

    columns: Int64Array
    means: Float64Array
    root: Float64Array
    limits: Float64Array
    false_alarm: float

    def unlike(self, inputs: AnyArray) -> bool:
        """Return whether a request is unlike all that the policy was trained on.

        Args:
            inputs: of `inputs_of`.
        """
        # As `distances`, in fewer steps: every decision takes this one.
        differences = inputs[self.columns].dot(self.root) - self._places
        squares = np.einsum("ij,ij->i", differences, differences)
        return bool((squares > self.limits).all())

    @cached_property
    def _places(self) -> Float64Array:
        """The tasks' means, turned as differences are, shape (T, d)."""
        places: Float64Array = self.means @ self.root
        return places

    def distances(self, inputs: AnyArray) -> Float64Array:
        """Return the squared distance of each of n requests from each task, shape (n, T).

        Args:
            inputs: shape (n, inputs).
        """
        differences = (inputs[:, None, self.columns] - self.means) @ self.root
        squares: Float64Array = (differences**2).sum(axis=2)
        return squares

    def arrays(self) -> dict[str, Float32Array]:
        """Return the named tensors that the policy bundle stores."""
        return {MEANS: self.means.astype(np.float32), ROOT: self.root.astype(np.float32)}

    def to_json(self) -> dict[str, Any]:
        """Return the rest of it, for the manifest."""
        return {
            "columns": self.columns.tolist(),
            "limits": self.limits.tolist(),
            "false_alarm": self.false_alarm,
        }


def inputs_of(featurizer: Featurizer, part: Float32Array, words: Collection[str]) -> Float32Array:
    """Return what the distance is measured in, for one request.

    Args:
        part: the request's features, as `Featurizer.request` returns them.
        words: the request's distinct words.

    Returns:
        structure, learned features and the share of unknown words, shape (inputs,).
    """
    count = featurizer.tags_start
    inputs = np.empty(count + 1, dtype=np.float32)
    inputs[:count], inputs[count] = part[:count], unknown_share(featurizer, words)
    return inputs


def unknown_share(featurizer: Featurizer, words: Collection[str]) -> float:
    """Return the share of words that the featurizer's text features do not know; 0 without any."""
    text = featurizer.text
    projection = text.words if isinstance(text, EncodedProjection) else text
    return projection.unknown_share(words) if isinstance(projection, WordProjection) else 0.0


def load_novelty(manifest: Mapping[str, Any], tensors: Mapping[str, Any]) -> Novelty | None:
    """Return the limit that a bundle stores; None if it has none.

    Raises:
        KeyError, TypeError, ValueError: it is damaged.
    """
    stored = manifest.get("novelty")
    if stored is None:
        return None
    columns = np.array(stored["columns"], dtype=np.int64)
    means, root = (tensors[name].astype(np.float64) for name in (MEANS, ROOT))
    limits, size = np.array(stored["limits"], dtype=np.float64), len(columns)
    if means.shape != (len(limits), size) or root.shape != (size, size):
        raise ValueError(f"novelty: means {means.shape} and root {root.shape} for {size} columns")
    return Novelty(columns, means, root, limits, float(stored["false_alarm"]))


def fit_novelty(
    inputs: AnyArray, tasks: Sequence[str], folds: Int64Array, false_alarm: float = FALSE_ALARM
) -> Novelty | None:
    """Return the limits for some prompts; None if a task has too few.

    Args:
        inputs: of n prompts, as if each were new, shape (n, inputs).
        tasks: the prompts' tasks.
        folds: the prompts' folds, shape (n,).
        false_alarm: share of like prompts that may lie beyond their task's limit.
    """
    kinds = [feature.name not in _LEFT_OUT for feature in STRUCTURE]
    usable = np.array(kinds + [True] * (inputs.shape[1] - len(kinds)))
    columns = np.flatnonzero(usable & (inputs.std(axis=0) > 1e-9))
    names, task_of = np.unique(np.array(tasks), return_inverse=True)
    counts = np.bincount(task_of)
    if counts.min() < _FEWEST or not len(columns):
        return None
    distances = np.zeros((len(inputs), len(names)))
    for fold in np.unique(folds):
        rows = folds == fold
        if len(np.unique(task_of[~rows])) < len(names):
            return None
        fitted = _fit(inputs[~rows], task_of[~rows], columns)
        distances[rows] = fitted.distances(inputs[rows])
    own = [np.sort(distances[task_of == task, task]) for task in range(len(names))]
    ranks = [math.ceil((len(each) + 1) * (1 - false_alarm)) for each in own]
    limits = [each[min(rank, len(each)) - 1] for each, rank in zip(own, ranks, strict=True)]
    fitted = _fit(inputs, task_of, columns)
    return replace(
        fitted,
        limits=np.array(limits, dtype=np.float64),
        false_alarm=max(false_alarm, 1 / (int(counts.min()) + 1)),
    )


def _fit(inputs: AnyArray, tasks: Int64Array, columns: Int64Array) -> Novelty:
    """Return means and covariance of some prompts, without limits.

    Args:
        tasks: the prompts' tasks, numbered from 0.
    """
    values = inputs[:, columns].astype(np.float64)
    count = int(tasks.max()) + 1
    means = np.stack([values[tasks == task].mean(axis=0) for task in range(count)])
    # In units of each input's own spread, so that the ridge is the same for all.
    scale = np.maximum(values.std(axis=0), 1e-9)
    centred = (values - means[tasks]) / scale
    covariance = centred.T @ centred / len(values) + _RIDGE * np.eye(len(columns))
    eigenvalues, vectors = np.linalg.eigh(covariance)
    root = (vectors / np.sqrt(eigenvalues)) / scale[:, None]
    return Novelty(columns, means, root, np.full(count, math.inf), 0.0)
