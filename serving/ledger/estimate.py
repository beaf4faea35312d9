"""What a request has cost, estimated from its tokens; and the site that it is answered at."""

from agents.policy.bundle import Bundle
from envs.carbon.footprint import Site, site_of
from envs.carbon.hardware import hardware
from envs.energy.coefficients import Coefficients, default, flat
from serving.settings.hook import HookConfig


def coefficients(bundle: Bundle | None, joules_per_token: float | None) -> Coefficients:
    """Those that the operator states, else those of the bundle's training data, else the default.

    A stated figure moves the seconds along: a device's power is taken to be the same.

    Raises:
        UnitError: what is stated is absurd.
    """
    found = default()
    joules, seconds = found.cost(0, 1)
    energy = bundle.manifest.get("energy") if bundle is not None else None
    if isinstance(energy, dict) and (own := energy.get("joules_per_completion_token")):
        # All of a request's energy over its generated tokens: prompts are in it.
        seconds = float(energy.get("seconds_per_completion_token") or own * seconds / joules)
        joules = float(own)
        found = flat(joules, seconds, "the policy's training data")
    if joules_per_token is not None:
        found = flat(joules_per_token, joules_per_token * seconds / joules, "stated")
    return found


def site(config: HookConfig) -> Site:
    """The site that the operator states.

    Raises:
        ConfigError: no such hardware.
    """
    if config.hardware is None:
        return Site(config.pue)
    return site_of(
        hardware(config.hardware),
        config.devices,
        pue=config.pue,
        life_years=config.life_years,
        reserved_ratio=config.reserved_share,
    )
