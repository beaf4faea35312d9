"""The cost that a policy minimises: a stated weighting of grams, seconds and money."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.arrays import Float64Array
from envs.errors import ConfigError
from envs.money import Tariff
from envs.outcomes.outcome import Outcomes

WEIGHTS = ("grams", "seconds", "money")


@dataclass(frozen=True)
class Objective:
    """Weights of a request's footprint, latency and money, each relative to its mean under L0.

    Attributes:
        grams, seconds, money: the weights; their sum is 1.
        mean_seconds: mean latency under L0, s.
        mean_money: mean cost under L0, in the tariff's currency.
        tariff: prices in money; None if money has no weight.
    """

    grams: float = 1.0
    seconds: float = 0.0
    money: float = 0.0
    mean_seconds: float = 1.0
    mean_money: float = 1.0
    tariff: Tariff | None = None

    def beside_grams(self, outcomes: Outcomes, pue: float) -> dict[str, Float64Array]:
        """Return the weighted cost of latency and of money, by name, shape (n,) each."""
        costs = {}
        if self.seconds:
            costs["seconds"] = self.seconds / self.mean_seconds * outcomes.latency_seconds
        if self.money and self.tariff is not None:
            money = self.tariff.cost(outcomes.energy_joules, outcomes.device_seconds, pue)
            costs["money"] = self.money / self.mean_money * money
        return costs

    @classmethod
    def from_manifest(cls, fields: Mapping[str, Any]) -> "Objective":
        """Return the objective that `dataclasses.asdict` turned into a mapping."""
        tariff = fields.get("tariff")
        return cls(**{**fields, "tariff": None if tariff is None else Tariff(**tariff)})


GRAMS_ALONE = Objective()


def make_objective(
    weights: Mapping[str, float], tariff: Tariff | None, outcomes: Outcomes
) -> Objective:
    """Return the objective with the means of a profile's L0 as references.

    Args:
        weights: weight by name, from `WEIGHTS`; they are divided by their sum.
        tariff: prices in money; needed if money has a weight.
        outcomes: outcomes under every directive, shape (n, D) each.

    Raises:
        ConfigError: a weight is wrong, or what it weighs was not measured.
    """
    if unknown := [name for name in weights if name not in WEIGHTS]:
        raise ConfigError(f"weights: no cost {unknown[0]!r}; give {', '.join(WEIGHTS)}")
    if any(not 0 <= weight < np.inf for weight in weights.values()) or not sum(weights.values()):
        raise ConfigError("weights: give numbers of 0 or more that are not all 0")
    shares = {name: weights.get(name, 0.0) / sum(weights.values()) for name in WEIGHTS}
    mean_seconds = float(outcomes.latency_seconds[:, 0].mean())
    if shares["seconds"] and not mean_seconds > 0:
        raise ConfigError("weights: the profile has no latencies, so seconds can have no weight")
    mean_money = 1.0
    if shares["money"]:
        if tariff is None:
            raise ConfigError("weights: money has a weight, so give the prices in money")
        energy, seconds = outcomes.energy_joules[:, 0], outcomes.device_seconds[:, 0]
        mean_money = float(tariff.cost(energy, seconds).mean())
        if not mean_money > 0:
            raise ConfigError("weights: the requests cost no money at these prices")
    return Objective(
        **shares,
        mean_seconds=mean_seconds if shares["seconds"] else 1.0,
        mean_money=mean_money,
        tariff=tariff if shares["money"] else None,
    )
