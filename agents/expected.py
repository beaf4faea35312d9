"""Expected quality from single verdicts, so that a policy has nothing to memorise.

One verdict a (prompt, directive) is a coin toss of its expected quality. A policy
trained on the tosses memorises which prompts came out well and breaks its floors on
new ones. It is trained on what *other* prompts foretell of this one instead, and on
no more of that than proved true.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from envs.structure import Array

Floats = NDArray[np.float64]
TREES = 100
# Verdicts of at least so many prompts are averaged in a leaf.
LEAST_PROMPTS = 16


def expected_quality(
    parts: Array, scores: Floats, tasks: NDArray[np.str_], folds: NDArray[np.int64], seed: int
) -> Floats:
    """Quality of each prompt under each directive, foretold and then shrunk.

    Extremely randomised trees (Geurts et al., 2006) on the policy's own view of a prompt
    foretell it from the prompts of other folds. What counts is a directive's difference
    to L0: it is shrunk towards its task's mean by `belief`.

    Args:
        parts: what the policy sees of each prompt, shape (n, n_parts).
        scores: verdicts, shape (n, D); rows with NaN are left as they are.
        tasks, folds: shape (n,).

    Returns:
        Shape (n, D).
    """
    known = np.asarray(~np.isnan(scores).any(axis=1), dtype=np.bool_)
    foretold = _foretold(parts, scores, known, folds, seed)
    expected = scores.copy()
    for task in np.unique(tasks[known]):
        rows = known & (tasks == task)
        expected[rows, 0] = foretold[rows, 0]
        for other in range(1, scores.shape[1]):
            true = scores[rows, other] - scores[rows, 0]
            told = foretold[rows, other] - foretold[rows, 0]
            shrunk = true.mean() + belief(told, true) * (told - told.mean())
            expected[rows, other] = foretold[rows, 0] + shrunk
    return expected


def belief(told: Floats, true: Floats) -> float:
    """How much of a prediction's spread to believe, 0 to 1; both of shape (n,).

    The slope of what came true on what was told (stacking with one predictor; Wolpert,
    1992), less its standard error: what chance alone explains is not believed.
    """
    told, true = told - told.mean(), true - true.mean()
    spread = float(told @ told)
    if len(told) < 3 or spread < 1e-12:
        return 0.0
    slope = float(told @ true) / spread
    left = true - slope * told
    error = np.sqrt(float(left @ left) / (len(told) - 2) / spread)
    return float(np.clip(slope - error, 0.0, 1.0))


def _foretold(
    parts: Array, scores: Floats, known: NDArray[np.bool_], folds: NDArray[np.int64], seed: int
) -> Floats:
    foretold = scores.copy()
    for fold in np.unique(folds[known]):
        inside, outside = known & (folds == fold), known & (folds != fold)
        if not outside.any():
            continue
        trees = ExtraTreesRegressor(
            TREES, min_samples_leaf=LEAST_PROMPTS, max_features=0.5, random_state=seed
        )
        trees.fit(parts[outside], scores[outside])
        foretold[inside] = trees.predict(parts[inside]).reshape(-1, scores.shape[1])
    return foretold
