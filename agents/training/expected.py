"""Expected outcomes from single ones, so that a policy has nothing to memorise.

One verdict a (prompt, directive) is a coin toss of its expected quality, and one energy a
draw of an answer's length. A policy trained on the draws memorises which prompts came out
well and breaks its floors on new ones. It is trained on what *other* prompts foretell of
this one instead, and on no more of that than proved true; nothing else could help it on a
new prompt, and without the noise it learns in fewer steps.
"""

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor

from envs.arrays import BoolArray, Float32Array, Float64Array, Int64Array, StrArray

TREES = 100
# Verdicts of at least so many prompts are averaged in a leaf.
LEAST_PROMPTS = 16


def expected_cost(foretold: Float64Array, costs: Float64Array, tasks: StrArray) -> Float64Array:
    """Costs as foretold, of each task's mean under each directive, as far as it came true.

    Args:
        foretold: logarithms of relative costs, shape (n, D), from other prompts.
        costs: shape (n, D).
        tasks: shape (n,).

    Returns:
        Shape (n, D).
    """
    told = np.exp(foretold)
    expected = np.empty_like(told)
    for task in np.unique(tasks):
        rows = tasks == task
        mean = costs[rows].mean(axis=0)
        scaled = told[rows] * mean / told[rows].mean(axis=0)
        for directive, true in enumerate(costs[rows].T):
            shrunk = _believed(scaled[:, directive], true)
            expected[rows, directive] = mean[directive] + shrunk
    return expected


def expected_quality(
    parts: Float32Array,
    length: Float64Array,
    scores: Float64Array,
    tasks: StrArray,
    folds: Int64Array,
    seed: int,
) -> Float64Array:
    """Quality of each prompt under each directive, as other folds' prompts foretell it.

    What counts is a directive's difference to L0. Often little more can be told of it than a
    line on how long the answer will be, by task; extremely randomised trees (Geurts et al.,
    2006), on all that the policy sees of a prompt, foretell what the lines leave. Both are
    believed as far as they came true (`belief`).

    Args:
        parts: what the policy sees of each prompt, shape (n, n_parts).
        length: what foretells the answer's length, log-energy under L0, shape (n,).
        scores: verdicts, shape (n, D); rows with NaN are left as they are.
        tasks, folds: shape (n,).

    Returns:
        Shape (n, D).
    """
    known = np.asarray(~np.isnan(scores).any(axis=1), dtype=np.bool_)
    by_task = [known & (tasks == task) for task in np.unique(tasks[known])]
    lines, left = np.zeros_like(scores), scores.copy()
    for rows in by_task:
        for other in range(1, scores.shape[1]):
            lost = scores[rows, other] - scores[rows, 0]
            told = _by_line(length[rows], lost, folds[rows])
            lines[rows, other] = lost.mean() + _believed(told, lost)
            left[rows, other] = lost - lines[rows, other]
    trees = _by_trees(parts, left, known, folds, seed)
    expected = scores.copy()
    for rows in by_task:
        expected[rows] = trees[rows, :1] + lines[rows]
        for other in range(1, scores.shape[1]):
            expected[rows, other] += _believed(trees[rows, other], left[rows, other])
    return expected


def _believed(told: Float64Array, true: Float64Array) -> Float64Array:
    """What to believe of a prediction's deviations from its mean, shape (n,)."""
    deviations: Float64Array = shrinkage(told, true) * (told - told.mean())
    return deviations


def shrinkage(told: Float64Array, true: Float64Array) -> float:
    """How much of a prediction's spread to believe, 0 to 1; both of shape (n,).

    The slope of what came true on what was told (stacking with one predictor; Wolpert,
    1992), less its standard error: what chance alone explains is not believed.
    """
    slope, error = _line(told, true)
    return float(np.clip(slope - error, 0.0, 1.0))


def _by_line(length: Float64Array, lost: Float64Array, folds: Int64Array) -> Float64Array:
    """Loss as a line on the length, its slope less its standard error, shape (n,)."""
    told = np.zeros(len(lost))
    for fold in np.unique(folds):
        inside, outside = folds == fold, folds != fold
        slope, error = _line(length[outside], lost[outside])
        if slope:
            sure = np.sign(slope) * max(0.0, abs(slope) - error)
            told[inside] = sure * (length[inside] - length[outside].mean())
    return told


def _by_trees(
    parts: Float32Array, scores: Float64Array, known: BoolArray, folds: Int64Array, seed: int
) -> Float64Array:
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


def _line(x: Float64Array, y: Float64Array) -> tuple[float, float]:
    """Slope of y on x by least squares, and its standard error; 0 where x does not vary."""
    if len(x) < 3:
        return 0.0, 0.0
    x, y = x - x.mean(), y - y.mean()
    spread = float(x @ x)
    if spread < 1e-12:
        return 0.0, 0.0
    slope = float(x @ y) / spread
    left = y - slope * x
    return slope, float(np.sqrt(float(left @ left) / (len(x) - 2) / spread))
