"""What a policy's choices cost and lose on its profile, by task and directive, for its manifest.

From this, serving foretells what the policy would save and lose on other traffic, and notices
answers that are not like the profile's.
"""

from typing import Any

import numpy as np

from agents.policy.network import Policy
from agents.training.prompts import PromptSet
from envs.arrays import Float64Array
from envs.outcomes.profile import Profile

# Task of the requests without a tag; they may belong to any task.
UNTAGGED = ""


def foretell(policy: Policy, prompts: PromptSet, profile: Profile) -> dict[str, Any]:
    """Return a policy's measured costs and qualities, from the profile's own outcomes.

    Args:
        prompts: the profile's prompts, with features that do not know their own outcomes.
        profile: the same prompts, with their outcomes.

    Returns:
        JSON-ready, by task (`UNTAGGED` for requests without a tag) and directive. "chosen": means
        over the requests for which the policy chooses the directive, weighted by its probability:
        `weight` (requests), `joules` and `quality` under the directive, and `joules_l0` and
        `quality_l0` of the same requests under L0; and the standard errors of the ratios to L0,
        `joules_ratio_error` and `quality_ratio_error`. Null means unknown. "tokens": over all
        requests: `count`, and mean and standard deviation of the natural logarithm of 1 + the
        answer's tokens.
    """
    chances = prompts.chances(policy)
    groups = {UNTAGGED: (chances[0], np.ones(len(profile.requests), dtype=np.bool_))}
    groups |= {task: (chances[1], rows) for task, rows in prompts.of_task.items()}
    log_tokens = np.log1p(profile.outcomes.completion_tokens)
    chosen: dict[str, Any] = {}
    tokens: dict[str, Any] = {}
    for task, (chance, rows) in groups.items():
        chosen[task], tokens[task] = {}, {}
        for action, name in enumerate(profile.directives):
            weight = np.where(rows, chance[:, action], 0.0)
            chosen[task][name] = _chosen(weight, action, prompts.scores, profile)
            logs = log_tokens[rows, action]
            tokens[task][name] = {
                "count": len(logs),
                "log_mean": float(logs.mean()),
                "log_sd": float(logs.std(ddof=1)) if len(logs) > 1 else None,
            }
    return {"chosen": chosen, "tokens": tokens}


def _chosen(
    weight: Float64Array, action: int, scores: Float64Array, profile: Profile
) -> dict[str, float | None]:
    unknown = np.isnan(scores[:, [0, action]]).any(axis=1)
    costs = _compared(profile.outcomes.energy_joules, action, weight)
    qualities = _compared(np.nan_to_num(scores), action, np.where(unknown, 0.0, weight))
    return {
        "weight": float(weight.sum()),
        **dict(zip(("joules", "joules_l0", "joules_ratio_error"), costs, strict=True)),
        **dict(zip(("quality", "quality_l0", "quality_ratio_error"), qualities, strict=True)),
    }


def _compared(
    values: Float64Array, action: int, weight: Float64Array
) -> tuple[float | None, float | None, float | None]:
    """Return the weighted means under a directive and under L0, and the error of their ratio.

    Args:
        values: shape (n, directives).
        weight: shape (n,).

    Returns:
        None for what is unknown because all weights or values are practically 0.
    """
    total = float(weight.sum())
    if total < 1e-9:
        return None, None, None
    under, l0 = values[:, action], values[:, 0]
    mean, mean_l0 = float(under @ weight) / total, float(l0 @ weight) / total
    if not mean_l0 > 0:
        return mean, mean_l0, None
    # Delta method.
    spread = float(np.sqrt(((weight * (under - mean / mean_l0 * l0)) ** 2).sum()))
    return mean, mean_l0, spread / total / mean_l0
