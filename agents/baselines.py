"""Rules that a learned policy is compared with."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from envs.profile import Profile

Floats = NDArray[np.float64]


def fixed(profile: Profile, directive: int) -> Floats:
    """Always the same directive: probabilities of shape (R, D)."""
    table = np.zeros((len(profile.requests), len(profile.directives)))
    table[:, directive] = 1.0
    return table


def best_fixed_mix(
    costs: Floats, scores: Floats, tasks: NDArray[np.str_], floors: Mapping[str, float]
) -> Floats:
    """The cheapest one mix of directives for all requests that keeps every task's floor.

    A linear program: minimise mean cost . x subject to x >= 0, sum x = 1 and, for each
    task, mean quality . x >= floor * mean L0 quality. Always feasible for floors <= 1,
    since L0 alone keeps them. Solved with HiGHS.

    Args:
        costs, scores: shape (R, D).
        tasks: shape (R,).
        floors: least quality ratio by task; other tasks are not constrained.

    Returns:
        The mix, shape (D,).
    """
    rows = [
        (np.nanmean(scores[tasks == task], axis=0), floor)
        for task, floor in floors.items()
        if (tasks == task).any() and not np.isnan(scores[tasks == task]).all()
    ]
    kept = np.array([-means for means, _ in rows])
    least = np.array([-floor * means[0] for means, floor in rows])
    solution = linprog(
        costs.mean(axis=0),
        A_ub=kept if len(rows) else None,
        b_ub=least if len(rows) else None,
        A_eq=np.ones((1, costs.shape[1])),
        b_eq=[1.0],
        bounds=(0, 1),
        method="highs",
    )
    if not solution.success:
        raise ValueError(f"no mix keeps the floors {dict(floors)}: {solution.message}")
    positive = np.clip(np.asarray(solution.x, dtype=np.float64), 0, 1)
    mix: Floats = positive / positive.sum()
    return mix
