"""What a request has cost, estimated from its tokens; and the site that it is answered at."""

from agents.policy.bundle import Bundle
from envs.carbon.footprint import FootprintModel, make_footprint_model
from envs.carbon.hardware import find_hardware
from envs.energy.coefficients import Coefficients, default_coefficients, token_coefficients
from serving.settings.hook import HookConfig


def estimate_coefficients(bundle: Bundle | None, joules_per_token: float | None) -> Coefficients:
    """Those that the operator states, else those of the bundle's training data, else the default.

    A stated figure moves the seconds along: a device's power is taken to be the same.

    Raises:
        UnitError: what is stated is absurd.
    """
    found = default_coefficients()
    joules, seconds = found.cost(0, 1)
    energy = bundle.manifest.get("energy") if bundle is not None else None
    if isinstance(energy, dict) and (own := energy.get("joules_per_completion_token")):
        # All of a request's energy over its generated tokens: prompts are in it.
        seconds = float(energy.get("seconds_per_completion_token") or own * seconds / joules)
        joules = float(own)
        found = token_coefficients(joules, seconds, "the policy's training data")
    if joules_per_token is not None:
        found = token_coefficients(joules_per_token, joules_per_token * seconds / joules, "stated")
    return found


def footprint_model(config: HookConfig) -> FootprintModel:
    """The site that the operator states.

    Raises:
        ConfigError: no such hardware.
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
