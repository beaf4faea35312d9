"""What training makes of a profile: features of unseen prompts, expected outcomes, the reward."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from agents.policy.network import normalisation
from agents.training.expected import expected_cost, expected_quality
from agents.training.text import fit_text, fold_of
from envs.arrays import Float32Array, Float64Array
from envs.carbon.intensity import IntensityTrace
from envs.errors import ConfigError
from envs.outcomes.profile import Profile
from envs.outcomes.reward import Reward, reward_from_profile
from envs.requests.features import LOG_ENERGY, Featurizer
from envs.requests.projection import Vectors
from envs.requests.request import Request
from envs.world import both_parts, moment_on


@dataclass(frozen=True)
class Prepared:
    """A profile ready to train on.

    Nothing of a prompt's own verdict reaches the policy: neither its features nor its
    reward. So the very prompts that it trains on can judge it by their verdicts.

    Attributes:
        known: the requests of tasks whose quality is known, with their verdicts.
        expected: the same with quality, energy and device time as other prompts foretell them.
        featurizer: fitted to all prompts; what serving uses.
        parts: the prompts as if each were new, without and with tags, shape
            (2, n, features before context).
        reward: with the profile's references and floors.
    """

    known: Profile
    expected: Profile
    featurizer: Featurizer
    parts: Float32Array
    reward: Reward
    quality: str

    @property
    def text_sha256(self) -> str:
        """Digest of what is seen of the prompts: another text encoder sees otherwise."""
        return hashlib.sha256(self.parts.tobytes()).hexdigest()

    def parts_of(self, requests: Sequence[Request]) -> Float32Array:
        """What is seen of requests, without and with tags, those of the profile as in `parts`.

        Shape (2, n, features before context).
        """
        parts = both_parts(self.featurizer, requests)
        place = {request.prompt_hash: row for row, request in enumerate(self.known.requests)}
        for column, request in enumerate(requests):
            if (row := place.get(request.prompt_hash)) is not None:
                parts[:, column] = self.parts[:, row]
        return parts

    def normalisation(self, trace: IntensityTrace, seed: int) -> tuple[Float32Array, Float32Array]:
        """Mean and scale of each feature over all prompts at random hours."""
        # Without some tags they all vary, also where the workload has one task only.
        parts = np.concatenate(self.parts)
        times = np.random.default_rng(seed).uniform(trace.start, trace.end, len(parts))
        moment = moment_on(trace, times, np.zeros(len(parts)))
        return normalisation(self.featurizer.observe(parts, moment))


def prepare(
    profile: Profile,
    floors: Mapping[str, float],
    mean_intensity_g_per_kwh: float,
    *,
    quality: str,
    floor_on: str = "task",
    seed: int = 0,
    vectors: Vectors | None = None,
) -> Prepared:
    """Fit the features, foretell the outcomes, set the reward's references.

    Args:
        floor_on: "task": quality is relative to its task's L0; "all": to that of all
            requests, so that a loss in one task can be made up in another.
        vectors: of texts, to be read beside their words.

    Raises:
        ConfigError: no task has a known quality; too few prompts.
    """
    known = with_known_quality(profile, quality)
    text = fit_text(known, quality, vectors)
    featurizer = Featurizer(known.tasks, text.whole)
    parts = np.stack([text.parts(featurizer, known.requests, tags) for tags in (False, True)])
    scores = known.quality(quality)
    folds = np.array([fold_of(request) for request in known.requests])
    tasks = np.array([request.task for request in known.requests])
    energy = _foretold_energy(featurizer, parts[1], known.directives)
    costs = replace(
        known.outcomes,
        energy_joules=expected_cost(energy, known.outcomes.energy_joules, tasks),
        device_seconds=expected_cost(energy, known.outcomes.device_seconds, tasks),
    )
    expected = replace(known, outcomes=costs).with_quality(
        quality, expected_quality(parts[1], energy[:, 0], scores, tasks, folds, seed)
    )
    reward = reward_from_profile(known, mean_intensity_g_per_kwh, dict(floors), quality)
    if floor_on == "all":
        overall = dict.fromkeys(reward.quality_l0, float(np.nanmean(scores[:, 0])))
        reward = replace(reward, quality_l0=overall)
    return Prepared(known, expected, featurizer, parts, reward, quality)


def _foretold_energy(
    featurizer: Featurizer, parts: Float32Array, directives: Sequence[str]
) -> Float64Array:
    """Logarithms of the energy foretold, relative to the mean under L0, shape (n, D)."""
    places = [featurizer.names.index(LOG_ENERGY + name) for name in directives]
    return parts[:, places].astype(np.float64)


def with_known_quality(profile: Profile, quality: str) -> Profile:
    """The requests of tasks whose quality is known.

    A task without references has no floor that could be kept: it is left out of
    training, of floors and of savings alike, and serving sees it as an unknown task.
    """
    scores = profile.quality(quality)
    rows = np.zeros(len(profile.requests), dtype=bool)
    for task in profile.tasks:
        of_task = profile.rows_of(task)
        if not np.isnan(scores[of_task]).any(axis=1).all():
            rows |= of_task
    if not rows.any():
        raise ConfigError(f"no task of the profile has a known quality {quality!r}")
    return profile.select(rows)
