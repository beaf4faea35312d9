"""Expected quality from single verdicts: each prompt's is replaced by its neighbours' mean.

One verdict a (prompt, directive) is a coin toss of its expected quality. A policy
trained on the tosses memorises which prompts came out well and breaks its floors on
new ones; trained on leave-one-out estimates it has nothing to memorise.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from envs.features import CONTENT, STRUCTURE, Array, Featurizer
from envs.profile import Profile
from envs.world import request_parts

Floats = NDArray[np.float64]
NEIGHBOURS = 16


def smoothed(
    profile: Profile, featurizer: Featurizer, quality: str, neighbours: int = NEIGHBOURS
) -> Profile:
    """The profile with leave-one-out nearest-neighbour estimates of `quality`.

    Neighbours are prompts of the same task, near in structure (each feature scaled to
    unit deviation within the task) and content; the prompt itself is left out. Tasks
    with unknown quality or fewer than two prompts are left as they are.
    """
    parts = request_parts(featurizer, profile.requests)[:, : len(STRUCTURE) + len(CONTENT)]
    estimate = profile.quality(quality).copy()
    for task in profile.tasks:
        rows = np.flatnonzero(profile.rows_of(task))
        known = rows[~np.isnan(estimate[rows]).any(axis=1)]
        if len(known) > 1:
            estimate[known] = _neighbours_mean(parts[known], estimate[known], neighbours)
    return profile.with_quality(quality, estimate)


def _neighbours_mean(parts: Array, scores: Floats, neighbours: int) -> Floats:
    points = parts.astype(np.float64)
    structure = points[:, : len(STRUCTURE)]
    spread = structure.std(axis=0)
    points[:, : len(STRUCTURE)] = structure / np.where(spread > 0, spread, 1)
    count = min(neighbours, len(points) - 1)
    # One more than asked for: the nearest is the prompt itself, unless others coincide with it.
    _, found = KDTree(points).query(points, k=count + 1)
    mean = np.empty_like(scores)
    for row, near in enumerate(np.atleast_2d(found)):
        mean[row] = scores[near[near != row][:count]].mean(axis=0)
    return mean
