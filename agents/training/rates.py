"""Fits a profile's energy and device time to tokens and directives."""

import numpy as np
from scipy.optimize import nnls

from envs.arrays import Float64Array
from envs.energy.profile_rates import ProfileRates
from envs.outcomes.profile import Profile


def fit_rates(profile: Profile) -> ProfileRates:
    """Return the rates of a profile's requests, by non-negative least squares.

    Raises:
        UnitError: the rates are absurd in joules.
    """
    outcomes = profile.outcomes
    work = np.stack(
        [
            np.ones_like(outcomes.energy_joules),
            outcomes.prompt_tokens,
            outcomes.completion_tokens,
        ],
        axis=-1,
    )
    joules = outcomes.energy_joules
    rates = _fit(work, joules)
    predicted = work @ rates
    means = joules.mean(axis=0)
    errors = (joules - predicted).std(axis=0) / np.sqrt(len(joules)) / np.maximum(means, 1e-300)
    factors = means / np.maximum(predicted.mean(axis=0), 1e-300)
    return ProfileRates(
        rates.tolist(),
        _fit(work, outcomes.device_seconds).tolist(),
        dict(zip(profile.directives, factors.tolist(), strict=True)),
        dict(zip(profile.directives, errors.tolist(), strict=True)),
    )


def _fit(work: Float64Array, cost: Float64Array) -> Float64Array:
    """Return the costs of the parts, shape (parts,).

    Args:
        work: shape (requests, directives, parts).
        cost: shape (requests, directives).
    """
    rows = work.reshape(-1, work.shape[-1]).astype(np.float64)
    scale = np.maximum(rows.mean(axis=0), 1e-300)
    fitted: Float64Array = nnls(rows / scale, cost.ravel().astype(np.float64))[0] / scale
    return fitted
