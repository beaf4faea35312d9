"""Explanations of a policy: Shapley values of feature groups, turning points, a surrogate tree."""

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
    """Return each feature group's contribution to the log-odds of `action` against `other`.

    Exact Shapley values (Shapley, 1953) of the five groups: the change in log-odds when a group
    is revealed, averaged over all orders of revealing the groups. All features of an unrevealed
    group, including those shared with another group, are set to their training mean. The
    contributions sum to the log-odds of this observation minus the log-odds at the means.

    Args:
        policy: the policy.
        featurizer: the policy's.
        observation: shape (n_features,).
        action, other: indices of the two directives.
    """
    columns = {group: featurizer.groups[group] for group in GROUPS}
    subsets = [set(s) for size in range(len(GROUPS) + 1) for s in combinations(GROUPS, size)]
    masked = np.tile(observation, (len(subsets), 1))
    for row, revealed in zip(masked, subsets, strict=True):
        for group in set(GROUPS) - revealed:
            row[columns[group]] = policy.mean[columns[group]]
    log_chance = np.log(np.maximum(policy.probabilities(masked), 1e-30))
    log_odds = log_chance[:, action] - log_chance[:, other]
    value = {frozenset(s): float(o) for s, o in zip(subsets, log_odds, strict=True)}
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
    """Return pairs (intensity, directive): the most probable directive from that intensity on.

    Intensities are in gCO2e/kWh, ascending; the first is 0. Directives are indices.

    Args:
        policy: the policy.
        featurizer: the policy's.
        observation: shape (n_features,); its intensity is replaced.
    """
    tiled = np.tile(observation, (len(INTENSITIES), 1))
    observations = featurizer.at_intensity(tiled, INTENSITIES)
    likeliest = policy.probabilities(observations).argmax(axis=1)
    turns = [(0.0, int(likeliest[0]))]
    for before, after, level in zip(likeliest[:-1], likeliest[1:], INTENSITIES[1:], strict=True):
        if before != after:
            turns.append((float(level), int(after)))
    return turns


@dataclass(frozen=True)
class Tree:
    """A decision tree that imitates a policy.

    Attributes:
        rules: the tree as text.
        leaves: number of leaves.
        fidelity: share of hold-out observations on which the tree predicts the policy's most
            probable directive.
        expected_fidelity: mean probability, on the hold-out, that the policy samples the
            directive that the tree predicts.
        usual: baseline for `fidelity`: the fidelity of a tree with one leaf.
    """

    rules: str
    leaves: int
    fidelity: float
    expected_fidelity: float
    usual: float


def distil(
    policy: Policy,
    featurizer: Featurizer,
    observations: Float32Array,
    directives: Mapping[int, str],
    leaves: int = MOST_LEAVES,
    seed: int = 0,
) -> Tree:
    """Fit a decision tree to the policy on half of the observations, test it on the other half.

    Args:
        policy: the policy to imitate.
        featurizer: the policy's.
        observations: shape (n, n_features).
        directives: names by index.
        leaves: most leaves of the tree.
        seed: seed of the split and of the tree.

    Raises:
        ValueError: fewer than two observations.
    """
    if len(observations) < 2:
        raise ValueError(
            f"{len(observations)} observations are too few to fit a tree; give two or more"
        )
    chance = policy.allowed(observations, featurizer.steerable(observations))
    likeliest = chance.argmax(axis=1)
    order = np.random.default_rng(seed).permutation(len(observations))
    train, held_out = np.array_split(order, 2)
    tree = DecisionTreeClassifier(max_leaf_nodes=leaves, random_state=seed)
    tree.fit(observations[train], likeliest[train])
    predicted: Int64Array = tree.predict(observations[held_out])
    names = [directives[int(action)] for action in tree.classes_]
    return Tree(
        export_text(tree, feature_names=list(featurizer.names), class_names=names),
        int(tree.get_n_leaves()),
        float((predicted == likeliest[held_out]).mean()),
        float(chance[held_out, predicted].mean()),
        float(np.bincount(likeliest[held_out]).max() / len(held_out)),
    )
