"""Expected outcomes from single noisy ones, so that the policy has no noise to memorise.

One verdict per (prompt, directive) is a coin toss with the expected quality as its probability,
and one energy value depends on the length of one sampled answer. A policy trained on these
samples memorises which prompts came out well and breaks its floors on new prompts. So it is
trained on outcomes predicted for each prompt from *other* prompts (cross-fitting), shrunk by how
well the predictions match the measurements. Nothing else could help the policy on a new prompt,
and without the noise it learns in fewer steps.
"""

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor

from envs.arrays import BoolArray, Float32Array, Float64Array, Int64Array, StrArray

TREES = 100
# Fewest prompts per leaf, so that a leaf averages over enough verdicts.
LEAST_PROMPTS = 16
# Standard errors by which a prediction must have proved true before it counts.
CAUTION = 2.0


def expected_cost(log_costs: Float64Array, costs: Float64Array, tasks: StrArray) -> Float64Array:
    """Return expected costs: each task's mean per directive plus shrunken predicted deviations.

    Args:
        log_costs: logarithms of relative costs, predicted from other prompts, shape (n, D).
        costs: measured costs, any unit, shape (n, D).
        tasks: task of each prompt, shape (n,).

    Returns:
        Expected costs, same unit as `costs`, shape (n, D).
    """
    predicted = np.exp(log_costs)
    expected = np.empty_like(predicted)
    for task in np.unique(tasks):
        rows = tasks == task
        mean = costs[rows].mean(axis=0)
        scaled = predicted[rows] * mean / predicted[rows].mean(axis=0)
        for directive, actual in enumerate(costs[rows].T):
            deviations = _shrunken(scaled[:, directive], actual)
            expected[rows, directive] = mean[directive] + deviations
    return expected


def expected_quality(
    parts: Float32Array,
    length: Float64Array,
    scores: Float64Array,
    tasks: StrArray,
    folds: Int64Array,
    seed: int,
) -> Float64Array:
    """Return the quality of each prompt under each directive, predicted from other folds.

    The target is the difference in quality between a directive and L0. Often the data support
    little more than a line per task against the expected answer length. Extremely randomised
    trees (Geurts et al., 2006) on all prompt features predict the residuals of these lines. Both
    predictions are shrunk by how well they match the measured quality (`shrinkage`).

    Args:
        parts: features of each prompt, shape (n, n_parts).
        length: predictor of the answer length: predicted log-energy under L0, shape (n,).
        scores: measured quality, shape (n, D); rows with NaN are returned unchanged.
        tasks, folds: task and cross-fitting fold of each prompt, shape (n,).
        seed: seed of the trees.

    Returns:
        Expected quality, shape (n, D).
    """
    known = np.asarray(~np.isnan(scores).any(axis=1), dtype=np.bool_)
    by_task = [known & (tasks == task) for task in np.unique(tasks[known])]
    lines, residuals = np.zeros_like(scores), scores.copy()
    for rows in by_task:
        for directive in range(1, scores.shape[1]):
            differences = scores[rows, directive] - scores[rows, 0]
            predicted = _by_line(length[rows], differences, folds[rows])
            lines[rows, directive] = differences.mean() + _shrunken(predicted, differences)
            residuals[rows, directive] = differences - lines[rows, directive]
    trees = _by_trees(parts, residuals, known, folds, seed)
    expected = scores.copy()
    for rows in by_task:
        expected[rows] = trees[rows, :1] + lines[rows]
        for directive in range(1, scores.shape[1]):
            expected[rows, directive] += _shrunken(
                trees[rows, directive], residuals[rows, directive]
            )
    return expected


def _shrunken(predicted: Float64Array, actual: Float64Array) -> Float64Array:
    """Return a prediction's deviations from its mean, times their `shrinkage`, shape (n,)."""
    deviations: Float64Array = shrinkage(predicted, actual) * (predicted - predicted.mean())
    return deviations


def shrinkage(predicted: Float64Array, actual: Float64Array) -> float:
    """Return the shrinkage factor of a prediction, from 0 (ignore) to 1 (keep in full).

    The factor is the slope of the measured on the predicted values (stacking with one predictor;
    Wolpert, 1992), minus `CAUTION` of the slope's standard errors, so that chance correlations are
    ignored.

    Args:
        predicted: predicted values, shape (n,).
        actual: measured values, shape (n,).
    """
    slope, error = _line(predicted, actual)
    return float(np.clip(slope - CAUTION * error, 0.0, 1.0))


def _by_line(length: Float64Array, differences: Float64Array, folds: Int64Array) -> Float64Array:
    """Return cross-fitted predictions of the quality difference from the length, shape (n,).

    Each fold's line is fitted to the other folds, with its slope reduced by one standard error.
    """
    predicted = np.zeros(len(differences))
    for fold in np.unique(folds):
        inside, outside = folds == fold, folds != fold
        slope, error = _line(length[outside], differences[outside])
        if slope:
            reduced = np.sign(slope) * max(0.0, abs(slope) - error)
            predicted[inside] = reduced * (length[inside] - length[outside].mean())
    return predicted


def _by_trees(
    parts: Float32Array, scores: Float64Array, known: BoolArray, folds: Int64Array, seed: int
) -> Float64Array:
    """Return cross-fitted predictions of `scores` from prompt features, shape (n, D)."""
    predicted = scores.copy()
    for fold in np.unique(folds[known]):
        inside, outside = known & (folds == fold), known & (folds != fold)
        if not outside.any():
            continue
        trees = ExtraTreesRegressor(
            TREES, min_samples_leaf=LEAST_PROMPTS, max_features=0.5, random_state=seed
        )
        trees.fit(parts[outside], scores[outside])
        predicted[inside] = trees.predict(parts[inside]).reshape(-1, scores.shape[1])
    return predicted


def _line(x: Float64Array, y: Float64Array) -> tuple[float, float]:
    """Return the least-squares slope of y on x and its standard error; zeros if x is constant."""
    if len(x) < 3:
        return 0.0, 0.0
    x, y = x - x.mean(), y - y.mean()
    spread = float(x @ x)
    if spread < 1e-12:
        return 0.0, 0.0
    slope = float(x @ y) / spread
    residuals = y - slope * x
    error = float(np.sqrt(float(residuals @ residuals) / (len(x) - 2) / spread))
    return slope, error
