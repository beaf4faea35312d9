"""Energy of a request by its tokens and directive, as a profile measured it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envs.plausible import check_joules_per_token

# Parts of a request that cost, in the order of the rates.
PARTS = ("request", "prompt_token", "completion_token")
SOURCE = "the policy's training data"


@dataclass(frozen=True)
class ProfileRates:
    """Costs of a request: (fixed + a p + b c) f, with p prompt tokens and c generated tokens.

    The factor f of each directive makes its mean over the profile the measured one.

    Attributes:
        joules: energy per request, per prompt token and per generated token, J.
        seconds: device time per the same, s.
        factors: f of each directive; 1 for a directive that is not named.
        errors: standard error of each directive's mean energy, relative to it.

    Raises:
        UnitError: a request of 100 tokens would take absurd joules.
    """

    joules: Sequence[float]
    seconds: Sequence[float]
    factors: Mapping[str, float]
    errors: Mapping[str, float]

    def __post_init__(self) -> None:
        check_joules_per_token(self.cost(100, 100, "")[0] / 100, SOURCE)

    def cost(
        self, prompt_tokens: float, completion_tokens: float, directive: str
    ) -> tuple[float, float, float | None]:
        """Return a request's joules, its device time in s, and the joules' standard error.

        The error is None for a directive that the profile did not have.
        """
        (fixed, a, b), (fixed_seconds, c, d) = self.joules, self.seconds
        joules = fixed + a * prompt_tokens + b * completion_tokens
        joules *= self.factors.get(directive, 1.0)
        seconds = fixed_seconds + c * prompt_tokens + d * completion_tokens
        error = self.errors.get(directive)
        return joules, seconds, None if error is None else error * joules

    def to_manifest(self) -> dict[str, Any]:
        """Return the rates as a bundle's manifest stores them."""
        return {
            "joules_per": dict(zip(PARTS, self.joules, strict=True)),
            "seconds_per": dict(zip(PARTS, self.seconds, strict=True)),
            "factors": dict(self.factors),
            "relative_errors": dict(self.errors),
        }

    @classmethod
    def from_manifest(cls, energy: Mapping[str, Any]) -> "ProfileRates | None":
        """Return the rates in a manifest's field `energy`; None if it has none.

        Older bundles have only a mean, per generated token.

        Raises:
            UnitError: a rate is absurd in joules.
        """
        rates = energy.get("rates")
        if isinstance(rates, dict):
            joules, seconds = (
                [float(rates[name][part]) for part in PARTS]
                for name in ("joules_per", "seconds_per")
            )
            return cls(joules, seconds, dict(rates["factors"]), dict(rates["relative_errors"]))
        mean = energy.get("joules_per_completion_token")
        if not mean:
            return None
        seconds_mean = float(energy.get("seconds_per_completion_token") or 0.0)
        return cls([0.0, 0.0, float(mean)], [0.0, 0.0, seconds_mean], {}, {})
