"""Linear programs over mixes of directives, solved with HiGHS via SciPy."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array

from envs.arrays import Float64Array, StrArray


def cheapest_mixes(costs: Float64Array, scores: Float64Array, least: Float64Array) -> Float64Array:
    """Return, for each of G groups, the cheapest mix of directives that reaches the least scores.

    Minimises costs[g] . x[g] subject to x[g] >= 0, sum x[g] = 1 and
    scores[g, k] . x[g] >= least[g, k] for every k. The groups are independent, so one call to
    the solver with a block-diagonal program solves all of them exactly.

    Args:
        costs: cost of each directive, shape (G, D).
        scores: K scores of each directive, shape (G, K, D).
        least: lower bound on each score, shape (G, K).

    Returns:
        Mixes of shape (G, D); rows sum to 1.

    Raises:
        ValueError: a group has no mix that reaches its least scores.
    """
    groups, directives = costs.shape
    constraints = scores.shape[1]
    # HiGHS uses absolute tolerances, so every group's numbers are scaled to about 1.
    cost_scale = np.maximum(np.abs(costs).max(axis=1, keepdims=True), 1e-300)
    score_scale = np.maximum(np.abs(scores).max(axis=2), 1e-300)
    solution = linprog(
        (costs / cost_scale).ravel(),
        A_ub=_block_diagonal(-scores / score_scale[..., None]) if constraints else None,
        b_ub=(-least / score_scale).ravel() if constraints else None,
        A_eq=_block_diagonal(np.ones((groups, 1, directives))),
        b_eq=np.ones(groups),
        bounds=(0, 1),
        method="highs",
    )
    if not solution.success:
        raise ValueError(f"no mix of directives reaches the least scores: {solution.message}")
    positive = np.clip(np.asarray(solution.x).reshape(groups, directives), 0, 1)
    mixes: Float64Array = positive / positive.sum(axis=1, keepdims=True)
    return mixes


def _block_diagonal(blocks: Float64Array) -> Any:
    """Return blocks of shape (G, K, D) as a sparse matrix of shape (G K, G D)."""
    groups, rows, columns = blocks.shape
    block_columns = np.arange(groups)[:, None, None] * columns + np.arange(columns)
    indices = np.broadcast_to(block_columns, blocks.shape).ravel()
    starts = np.arange(groups * rows + 1) * columns
    return csr_array((blocks.ravel(), indices, starts), shape=(groups * rows, groups * columns))


def best_fixed_mix(
    costs: Float64Array, scores: Float64Array, tasks: StrArray, floors: Mapping[str, float]
) -> Float64Array:
    """Return the cheapest mix of directives, one for all requests, that meets each task's floor.

    Column 0 is L0. For floors up to 1 there is always a solution, because L0 meets them. Tasks
    without any known score are not constrained.

    Args:
        costs, scores: cost and score of R requests under D directives, shape (R, D); a score is
            NaN if unknown.
        tasks: task of each request, shape (R,).
        floors: minimum mean score relative to L0, by task.

    Returns:
        The mix, shape (D,).
    """
    task_floors = [
        (np.nanmean(scores[tasks == task], axis=0), floor)
        for task, floor in floors.items()
        if (tasks == task).any() and not np.isnan(scores[tasks == task]).all()
    ]
    means = np.array([mean for mean, _ in task_floors]).reshape(1, len(task_floors), costs.shape[1])
    least = np.array([[floor * mean[0] for mean, floor in task_floors]])
    mix: Float64Array = cheapest_mixes(costs.mean(axis=0)[None], means, least)[0]
    return mix
