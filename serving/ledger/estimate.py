"""Models for estimates: energy from tokens, and emissions of the site that serves.

What is not known is not estimated: a model without a rate has no joules.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from envs.carbon.footprint import FootprintModel, make_footprint_model
from envs.carbon.hardware import find_hardware
from envs.energy.coefficients import Coefficients, read_coefficients
from envs.energy.profile_rates import ProfileRates
from envs.errors import DataError
from envs.plausible import check_joules_per_token
from serving.settings.hook import HookConfig

# For prompts whose tokens nobody counted.
CHARACTERS_PER_TOKEN = 4


class Work(NamedTuple):
    """The work of one request.

    Attributes:
        prompt_tokens, completion_tokens: tokens read and generated.
        concurrent: requests at the server, this one included.
        directive: directive in effect.
    """

    prompt_tokens: int
    completion_tokens: int
    concurrent: int
    directive: str


def work_of(
    prompt_tokens: int | None,
    completion_tokens: int | None,
    characters: int,
    in_flight: int,
    directive: str,
) -> Work | None:
    """Return the work of a recorded request; None if its tokens are unknown.

    Args:
        prompt_tokens: as the upstream counted them; None takes them from the characters.
        characters: length of the request's messages; 0 if the request was not read.
        in_flight: other requests at the server.
    """
    if prompt_tokens is None and characters:
        prompt_tokens = characters // CHARACTERS_PER_TOKEN
    if prompt_tokens is None or completion_tokens is None:
        return None
    return Work(prompt_tokens, completion_tokens, in_flight + 1, directive)


class Estimate(NamedTuple):
    """Estimated energy of one request.

    Attributes:
        joules: energy, J.
        seconds: device time, s; None if unknown.
        error_joules: standard error of `joules`, J; None if unknown.
    """

    joules: float
    seconds: float | None
    error_joules: float | None

    def grams(self, site: FootprintModel, g_per_kwh: float | None) -> float | None:
        """Return the emissions, gCO2e; None if the carbon intensity is unknown.

        Embodied emissions are left out where the device time is unknown.
        """
        if g_per_kwh is None:
            return None
        return site.grams(self.joules, self.seconds or 0.0, g_per_kwh)


class Rates(Protocol):
    """Energy of one model's requests."""

    def estimate(self, work: Work) -> Estimate:
        """Return the energy of a request."""


@dataclass(frozen=True)
class Stated:
    """The operator's figure.

    Attributes:
        joules_per_token: energy per generated token, J.

    Raises:
        UnitError: the figure is implausible.
    """

    joules_per_token: float

    def __post_init__(self) -> None:
        check_joules_per_token(self.joules_per_token, "--joules-per-token")

    def estimate(self, work: Work) -> Estimate:
        """Return the energy of a request; the device time is unknown."""
        return Estimate(self.joules_per_token * work.completion_tokens, None, None)


@dataclass(frozen=True)
class Calibrated:
    """Coefficients that `sprout calibrate` measured on the server."""

    coefficients: Coefficients

    def estimate(self, work: Work) -> Estimate:
        """Return the energy of a request."""
        tokens = work.prompt_tokens, work.completion_tokens, work.concurrent
        joules, seconds = self.coefficients.cost(*tokens)
        return Estimate(joules, seconds, self.coefficients.error(*tokens))


@dataclass(frozen=True)
class Profiled:
    """Rates of the profile that a policy was trained on."""

    rates: ProfileRates

    def estimate(self, work: Work) -> Estimate:
        """Return the energy of a request."""
        return Estimate(
            *self.rates.cost(work.prompt_tokens, work.completion_tokens, work.directive)
        )


def operator_rates(config: HookConfig) -> Rates | None:
    """Return the rates that the operator measured or stated, for all models; None if neither.

    Raises:
        DataError, UnitError: the coefficients file or the stated figure is wrong.
    """
    if config.coefficients is not None:
        return Calibrated(read_coefficients(config.coefficients))
    return None if config.joules_per_token is None else Stated(config.joules_per_token)


def manifest_rates(manifest: Mapping[str, Any]) -> Rates | None:
    """Return the rates of a bundle's training data; None if it has none.

    Raises:
        DataError, UnitError: a figure is missing, is no number or is implausible.
    """
    energy = manifest.get("energy")
    try:
        rates = ProfileRates.from_manifest(energy) if isinstance(energy, dict) else None
    except (KeyError, TypeError, ValueError) as error:
        remedy = "train the bundle again"
        raise DataError("manifest.json, energy", f"a rate is wrong ({error})", remedy) from None
    return None if rates is None else Profiled(rates)


def footprint_model(config: HookConfig) -> FootprintModel:
    """Return the footprint model of the operator's site.

    Raises:
        ConfigError: the catalogue has no such hardware.
    """
    if config.hardware is None:
        source = "operational emissions only; --hardware is not stated"
        return FootprintModel(config.pue, embodied_grams=0.0, source=source)
    return make_footprint_model(
        find_hardware(config.hardware),
        config.devices,
        pue=config.pue,
        life_years=config.life_years,
        reserved_ratio=config.reserved_share,
    )
