"""Why a policy chooses as it does: shares of feature groups, turning points, a small tree."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from sklearn.tree import DecisionTreeClassifier, export_text

from agents.policy.network import Policy
from envs.arrays import Float32Array, Int64Array
from envs.requests.features import GROUPS, Featurizer

MOST_LEAVES = 12
INTENSITIES = np.geomspace(5, 1500, 400)


def contributions(
    policy: Policy, featurizer: Featurizer, observation: Float32Array, action: int, other: int
) -> dict[str, float]:
    """Each feature group's share of the log-odds of `action` against `other`.

    Exact Shapley values (Shapley, 1953) of the five groups: what a group adds to the
    log-odds, averaged over all orders in which the groups may be revealed, an unrevealed one
    being at its mean in training, and with it what it shares with others. They sum to the
    log-odds here less those at the means.

    Args:
        observation: shape (n_features,).
    """
    places = {group: featurizer.groups[group] for group in GROUPS}
    subsets = [set(s) for size in range(len(GROUPS) + 1) for s in combinations(GROUPS, size)]
    seen = np.tile(observation, (len(subsets), 1))
    for row, revealed in zip(seen, subsets, strict=True):
        for group in set(GROUPS) - revealed:
            row[places[group]] = policy.mean[places[group]]
    chance = np.log(np.maximum(policy.probabilities(seen), 1e-30))
    odds = chance[:, action] - chance[:, other]
    value = {frozenset(s): float(o) for s, o in zip(subsets, odds, strict=True)}
    count = len(GROUPS)
    return {
        group: sum(
            math.factorial(len(s))
            * math.factorial(count - len(s) - 1)
            / math.factorial(count)
            * (value[frozenset(s | {group})] - value[frozenset(s)])
            for s in subsets
            if group not in s
        )
        for group in GROUPS
    }


def turning_points(
    policy: Policy, featurizer: Featurizer, observation: Float32Array
) -> list[tuple[float, int]]:
    """From which carbon intensity (g/kWh) on the likeliest directive is which, ascending."""
    tiled = np.tile(observation, (len(INTENSITIES), 1))
    seen = featurizer.at_intensity(tiled, INTENSITIES)
    likeliest = policy.probabilities(seen).argmax(axis=1)
    turns = [(0.0, int(likeliest[0]))]
    for before, after, level in zip(likeliest[:-1], likeliest[1:], INTENSITIES[1:], strict=True):
        if before != after:
            turns.append((float(level), int(after)))
    return turns


@dataclass(frozen=True)
class Tree:
    """A policy distilled.

    Attributes:
        rules: as text.
        fidelity: share of observations, not used to grow it, on which it takes the policy's
            likeliest directive.
        expected_fidelity: probability that it takes what the policy draws.
        usual: share of the likeliest directive that is most frequent: what a tree of one leaf
            would reach.
    """

    rules: str
    leaves: int
    fidelity: float
    expected_fidelity: float
    usual: float


def distilled(
    policy: Policy,
    featurizer: Featurizer,
    observations: Float32Array,
    directives: Mapping[int, str],
    leaves: int = MOST_LEAVES,
    seed: int = 0,
) -> Tree:
    """A decision tree that imitates the policy, grown on half of the observations.

    Raises:
        ValueError: fewer than two observations.
    """
    if len(observations) < 2:
        raise ValueError(f"{len(observations)} observations are too few to grow a tree")
    chance = policy.allowed(observations, featurizer.steerable(observations))
    likeliest = chance.argmax(axis=1)
    order = np.random.default_rng(seed).permutation(len(observations))
    grown, judged = np.array_split(order, 2)
    tree = DecisionTreeClassifier(max_leaf_nodes=leaves, random_state=seed)
    tree.fit(observations[grown], likeliest[grown])
    told: Int64Array = tree.predict(observations[judged])
    names = [directives[int(action)] for action in tree.classes_]
    return Tree(
        export_text(tree, feature_names=list(featurizer.names), class_names=names),
        int(tree.get_n_leaves()),
        float((told == likeliest[judged]).mean()),
        float(chance[judged, told].mean()),
        float(np.bincount(likeliest[judged]).max() / len(judged)),
    )
