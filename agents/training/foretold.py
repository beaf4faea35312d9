"""Costs and qualities of a policy's choices on its profile, for its manifest.

From this, serving foretells what the policy would save and lose on other traffic, and notices
answers that are not like the profile's.
"""

from typing import Any

import numpy as np

from agents.training.prepared import Prepared
from agents.training.prompts import PromptSet
from envs.arrays import Float64Array
from envs.outcomes.profile import Profile
from envs.requests.features import LOG_ENERGY

# Task of the requests without a tag; they may belong to any task.
UNTAGGED = ""
# Below this sum of probabilities, the policy practically never makes a choice.
_LEAST_WEIGHT = 1e-9


def foretell(chances: Float64Array, prompts: PromptSet, prepared: Prepared) -> dict[str, Any]:
    """Return a policy's measured costs and qualities, from its profile's own outcomes.

    Args:
        chances: the policy's probabilities, shape (2, n, n_directives): of each prompt without and
            with its tag.
        prompts: the prompts of `prepared`.
        prepared: the profile, with features that do not know a prompt's own outcomes.

    Returns:
        JSON-ready. "chosen": by task (`UNTAGGED` for requests without a tag) and directive, over
        the requests for which the policy chooses it, weighted by its probability: `weight`
        (requests); the means `joules` and `quality` under the directive; `joules_l0` and
        `quality_l0`, the same requests' means under L0; and the standard errors of the ratios to
        L0, `joules_ratio_error` and `quality_ratio_error`. "lengths": by directive, the line
        `intercept` + `slope` x, with the feature `log_energy=` of the directive as x, through
        ln(1 + the answer's tokens), its standard error `error`, and the number of answers `count`.
        Given the features, it holds whatever the policy chooses. Empty if a server did not count
        the tokens. Null means unknown.
    """
    profile = prepared.known
    groups = {UNTAGGED: (chances[0], np.ones(len(profile.requests), dtype=np.bool_))}
    groups |= {task: (chances[1], rows) for task, rows in prompts.of_task.items()}
    return {
        "chosen": {
            task: {
                name: _chosen(np.where(rows, chance[:, action], 0.0), action, prompts, profile)
                for action, name in enumerate(profile.directives)
            }
            for task, (chance, rows) in groups.items()
        },
        "lengths": {
            name: _line(prepared, name, action)
            for action, name in enumerate(profile.directives)
            if profile.tokens_method == "counted"
        },
    }


def _line(prepared: Prepared, directive: str, action: int) -> dict[str, float]:
    """Return the line through the lengths of the answers under a directive, by least squares."""
    lengths = np.log1p(prepared.known.outcomes.completion_tokens[:, action])
    names, feature = prepared.featurizer.names, f"{LOG_ENERGY}{directive}"
    x = np.zeros(len(lengths))
    if feature in names:
        x = prepared.parts[1][:, names.index(feature)].astype(np.float64)
    design = np.column_stack([np.ones(len(x)), x])
    intercept, slope = np.linalg.lstsq(design, lengths, rcond=None)[0]
    residual = lengths - design @ (intercept, slope)
    return {
        "intercept": float(intercept),
        "slope": float(slope),
        "error": float(residual.std() / np.sqrt(len(x))),
        "count": len(x),
    }


def _chosen(
    weight: Float64Array, action: int, prompts: PromptSet, profile: Profile
) -> dict[str, float | None]:
    unknown = np.isnan(prompts.scores[:, [0, action]]).any(axis=1)
    costs = _compared(profile.outcomes.energy_joules, action, weight)
    qualities = _compared(np.nan_to_num(prompts.scores), action, np.where(unknown, 0.0, weight))
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
    if total < _LEAST_WEIGHT:
        return None, None, None
    under, l0 = values[:, action], values[:, 0]
    mean, mean_l0 = float(under @ weight) / total, float(l0 @ weight) / total
    if not mean_l0 > 0:
        return mean, mean_l0, None
    # Delta method.
    spread = float(np.sqrt(((weight * (under - mean / mean_l0 * l0)) ** 2).sum()))
    return mean, mean_l0, spread / total / mean_l0
