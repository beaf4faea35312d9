"""Preparation of a profile for training: cross-fitted features, expected outcomes, the reward."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from agents.policy.network import normalisation
from agents.policy.novelty import Novelty, fit_novelty
from agents.training.expected import expected_cost, expected_quality
from agents.training.text import fit_text
from envs.arrays import Float32Array, Float64Array
from envs.carbon.intensity import IntensityTrace
from envs.outcomes.prices import draw_prices
from envs.outcomes.profile import Profile, with_known_quality
from envs.outcomes.reward import Reward, reward_from_profile
from envs.requests.features import LOG_ENERGY, Featurizer
from envs.requests.projection import Vectors
from envs.requests.request import Request, fold_of
from envs.world import moment_on, parts_by_tag


@dataclass(frozen=True)
class Prepared:
    """A profile ready for training.

    A prompt's own verdict reaches neither its features nor its reward in training (cross-fitting).
    So the training prompts' own verdicts can be used to validate the policy.

    Attributes:
        known: the requests of tasks with known quality, with their measured outcomes.
        expected: the same requests with quality, energy and device time predicted from other
            prompts.
        featurizer: fitted to all prompts; used in serving.
        parts: cross-fitted features of the prompts, as if each were new, without and with tags,
            shape (2, n, features before context).
        reward: the reward, with the profile's references and floors.
        quality: "correct" or "preference".
        novelty: the limits of what is like these prompts; None if they are too few.
    """

    known: Profile
    expected: Profile
    featurizer: Featurizer
    parts: Float32Array
    reward: Reward
    quality: str
    novelty: Novelty | None = None

    @property
    def text_sha256(self) -> str:
        """SHA-256 of the prompt features; it changes with the text encoder."""
        return hashlib.sha256(self.parts.tobytes()).hexdigest()

    def parts_of(self, requests: Sequence[Request]) -> Float32Array:
        """Return features of requests, without and with tags; `parts` for the profile's prompts.

        Shape (2, n, features before context).
        """
        parts = parts_by_tag(self.featurizer, requests)
        row_of = {request.prompt_hash: row for row, request in enumerate(self.known.requests)}
        for column, request in enumerate(requests):
            if (row := row_of.get(request.prompt_hash)) is not None:
                parts[:, column] = self.parts[:, row]
        return parts

    def normalisation(
        self, trace: IntensityTrace, price_range: tuple[float, float], seed: int
    ) -> tuple[Float32Array, Float32Array]:
        """Return mean and scale of each feature over all prompts at random hours and prices."""
        # Prompts without tags are included so that tags vary even if there is only one task.
        parts = np.concatenate(self.parts)
        rng = np.random.default_rng(seed)
        times = rng.uniform(trace.start, trace.end, len(parts))
        moment = moment_on(trace, times, np.zeros(len(parts)))
        randoms = rng.random((len(parts), 2))
        prices = draw_prices(randoms, price_range, limited=bool(self.reward.limits))
        log_price, log_latency_price = prices.logarithms
        moment = replace(moment, log_price=log_price, log_latency_price=log_latency_price)
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
    """Fit the features, predict the expected outcomes and set the reward's references.

    Args:
        profile: prompts with their outcomes under every directive.
        floors: least quality relative to L0, by task.
        mean_intensity_g_per_kwh: mean grid intensity, gCO2e/kWh; scales the footprint.
        quality: "correct" or "preference".
        floor_on: "task" for quality relative to the task's mean under L0; "all" for quality
            relative to the mean of all requests, so that one task can compensate for another.
        seed: seed of the trees that predict quality.
        vectors: text encoder used in addition to words; None for words only.

    Raises:
        ConfigError: no task has a known quality, or there are too few prompts.
    """
    known = with_known_quality(profile, quality)
    text = fit_text(known, quality, vectors)
    featurizer = Featurizer(known.tasks, text.full)
    parts = np.stack([text.parts(featurizer, known.requests, tags) for tags in (False, True)])
    scores = known.quality(quality)
    folds = np.array([fold_of(request) for request in known.requests])
    tasks = np.array([request.task for request in known.requests])
    energy = _predicted_energy(featurizer, parts[1], known.directives)
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
    novelty = fit_novelty(
        text.novelty_inputs(featurizer, known.requests, parts[0]), tasks.tolist(), folds
    )
    return Prepared(known, expected, featurizer, parts, reward, quality, novelty)


def _predicted_energy(
    featurizer: Featurizer, parts: Float32Array, directives: Sequence[str]
) -> Float64Array:
    """Return predicted log-energy relative to the mean under L0, shape (n, D)."""
    columns = [featurizer.names.index(LOG_ENERGY + name) for name in directives]
    return parts[:, columns].astype(np.float64)
