"""Models for estimates: energy from tokens, and emissions of the site that serves."""

from agents.policy.bundle import Bundle
from envs.carbon.footprint import FootprintModel, make_footprint_model
from envs.carbon.hardware import find_hardware
from envs.energy.coefficients import Coefficients, default_coefficients, token_coefficients
from serving.settings.hook import HookConfig


def estimate_coefficients(bundle: Bundle | None, joules_per_token: float | None) -> Coefficients:
    """Return the operator's coefficients, else those of the bundle's training data, else defaults.

    Args:
        bundle: the policy bundle in use, or None.
        joules_per_token: the operator's figure, J per generated token, or None if not stated. The
            device's seconds are scaled with it, as its power is assumed to stay the same.

    Raises:
        UnitError: a figure is implausible.
    """
    coefficients = default_coefficients()
    joules, seconds = coefficients.cost(0, 1)
    energy = bundle.manifest.get("energy") if bundle is not None else None
    if isinstance(energy, dict) and (trained := energy.get("joules_per_completion_token")):
        # A request's whole energy, its prompt's included, divided by its generated tokens.
        seconds = float(energy.get("seconds_per_completion_token") or trained * seconds / joules)
        joules = float(trained)
        coefficients = token_coefficients(joules, seconds, "the policy's training data")
    if joules_per_token is not None:
        coefficients = token_coefficients(
            joules_per_token, joules_per_token * seconds / joules, "stated"
        )
    return coefficients


def footprint_model(config: HookConfig) -> FootprintModel:
    """Return the footprint model of the operator's site.

    Raises:
        ConfigError: the catalogue has no such hardware.
    """
    if config.hardware is None:
        return FootprintModel(config.pue)
    return make_footprint_model(
        find_hardware(config.hardware),
        config.devices,
        pue=config.pue,
        life_years=config.life_years,
        reserved_ratio=config.reserved_share,
    )
