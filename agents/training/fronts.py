"""The search for prices after training: the front of a policy, and what it means at its floors."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agents.policy.front import COSTS, Curve, Front
from agents.policy.network import Policy
from agents.policy.pricing import Floors, Pricing
from agents.training.config import PpoConfig
from agents.training.prompts import Group, Measured, PromptSet
from envs.arrays import Float64Array
from envs.errors import ConfigError
from envs.outcomes.prices import LATENCY_RANGE
from envs.outcomes.reward import Reward

# Prices of quality at which a front is measured first, and prices of latency.
PRICES = 33
LATENCY_PRICES = 6
# Between two prices a further one is measured where a quality moves by more than this, unless they
# are closer than this ratio: a floor takes a measured price, so a wide step keeps too much.
STEP = 0.005
CLOSEST = 1.02
# Prices at which a training is measured while it goes on.
PROBED = (1.0, 3.0, 10.0)

# Figures at one price of quality: by zone, price of latency and group.
_AtPrice = dict[str, list[list[Measured]]]


@dataclass(frozen=True)
class Validation:
    """A policy's expected metrics at its floors' prices, from the prompts' measured outcomes.

    Attributes:
        grams_ratio: footprint relative to always using L0.
        ratio_by_task: quality relative to L0, the worst of the zones. Keys: the task for requests
            that show their task's tag, `envs.outcomes.floors.untagged_name` for requests that do
            not. If floors depend on the grid's intensity, each intensity band has its own key
            (`envs.outcomes.floors.FloorSchedule.names`).
        bound_by_task: lower bounds on these ratios, at the configured confidence.
        prices: price of quality of each constraint, the highest of the zones, and price of
            latency of each latency limit.
        share: mean probability of each directive.
        share_by_task: the same by constraint, with the keys of `ratio_by_task`.
        overshoot_bound: upper bounds on the mean excess over each latency limit; a limit is kept
            if its bound is at most 0.
        missed: how far each floor or limit is missed at the configured confidence, worst first;
            empty if all are kept.
    """

    grams_ratio: float
    ratio_by_task: dict[str, float]
    bound_by_task: dict[str, float]
    prices: dict[str, float]
    share: tuple[float, ...]
    share_by_task: dict[str, list[float]]
    overshoot_bound: dict[str, float]
    missed: dict[str, float]


def check_constraints(sets: Sequence[PromptSet], reward: Reward, config: PpoConfig) -> None:
    """Check that floors can be measured and that limits can be kept.

    Raises:
        ConfigError: a floor or a limit cannot be checked or cannot be kept by any policy.
    """
    for prompts in sets:
        for group in prompts.groups(together=config.floor_on == "all"):
            if group.floor > 0 and not prompts.scores[group.judged.any(axis=0), 0].sum() > 0:
                raise ConfigError(
                    f"task {group.task!r}: the floor cannot be checked, because none of its "
                    "prompts is answered correctly under L0; record more requests per task"
                )
            for name, excess in prompts.least_overshoot(group, config.confidence).items():
                if excess > 0:
                    raise ConfigError(
                        f"latency limit {name}: no choice of directives keeps it with a margin of "
                        f"{config.confidence:g} standard errors (the fastest choice exceeds it by "
                        f"{excess:.2f}); raise the limit, record more requests, or lower the "
                        "confidence"
                    )


def measure_front(
    policy: Policy, sets: Sequence[PromptSet], reward: Reward, config: PpoConfig
) -> Front:
    """Return the front of a policy that observes prices.

    The prompts' own verdicts are used. The policy has not seen them: neither its features nor its
    rewards contain a prompt's own outcome (cross-fitting).

    Args:
        sets: the prompts in each zone; the floors hold in each of them.
        reward: supplies floors, limits and the floors' schedule.
        config: supplies the range of prices, confidence and safety.
    """
    levels = np.array([LATENCY_RANGE[0]])
    if reward.limits:
        levels = np.geomspace(*LATENCY_RANGE, LATENCY_PRICES)
    together = config.floor_on == "all"
    groups = {prompts.zone: prompts.groups(together=together) for prompts in sets}
    found: dict[float, _AtPrice] = {}
    missing = np.geomspace(*config.price_range, PRICES).tolist()
    while missing:
        found |= _measured(policy, sets, groups, missing, levels, config.confidence)
        missing = [
            math.sqrt(low * high)
            for low, high in itertools.pairwise(sorted(found))
            if high / low > CLOSEST and _step(found[low], found[high]) > STEP
        ]
    at_prices = [found[price] for price in sorted(found)]
    zones = {
        zone: {
            group.name: _curve(
                [
                    [at_price[zone][level][index] for at_price in at_prices]
                    for level in range(len(levels))
                ],
                group,
            )
            for index, group in enumerate(of_zone)
        }
        for zone, of_zone in groups.items()
    }
    return Front(
        np.array(sorted(found)),
        levels,
        config.confidence,
        config.safety,
        zones,
        reward.floor_schedule,
    )


def _measured(
    policy: Policy,
    sets: Sequence[PromptSet],
    groups: Mapping[str, Sequence[Group]],
    prices: Sequence[float],
    levels: Float64Array,
    confidence: float,
) -> dict[float, _AtPrice]:
    """Return the figures of all groups at each price of quality."""
    log_levels = np.log(levels).tolist() if len(levels) > 1 else [0.0]
    pairs = [(math.log(price), level) for price in prices for level in log_levels]
    found: dict[float, _AtPrice] = {price: {} for price in prices}
    for prompts in sets:
        each = [
            prompts.measure(groups[prompts.zone], chance, confidence)
            for chance in prompts.sweep(policy, pairs)
        ]
        for index, price in enumerate(prices):
            found[price][prompts.zone] = each[index * len(levels) : (index + 1) * len(levels)]
    return found


def _step(low: _AtPrice, high: _AtPrice) -> float:
    """Return by how much the quality that moves most moves between two prices."""
    return max(
        abs(a.quality - b.quality)
        for zone in low
        for level in range(len(low[zone]))
        for a, b in zip(low[zone][level], high[zone][level], strict=True)
    )


def _curve(measured: list[list[Measured]], group: Group) -> Curve:
    """Return a group's curve from its figures by price of latency and price of quality."""

    def array(pick: Callable[[Measured], float]) -> Float64Array:
        return np.array([[pick(each) for each in level] for level in measured])

    limited = bool(measured[0][0].overshoot)
    return Curve(
        array(lambda each: each.quality),
        array(lambda each: each.quality_error),
        array(lambda each: each.grams_error),
        {name: array(lambda each, name=name: each.costs[name]) for name in COSTS},  # type: ignore[misc]
        measured[0][0].l0,
        array(lambda each: max(each.overshoot.values())) if limited else None,
        int(group.rows.sum()),
    )


def probe(policy: Policy, prompts: PromptSet) -> dict[str, float]:
    """Return footprint and quality relative to L0 at `PROBED` prices, by name, for a tracker."""
    figures = {}
    pairs = [(float(np.log(price)), 0.0) for price in PROBED]
    for price, chance in zip(PROBED, prompts.sweep(policy, pairs), strict=True):
        grams, scores = prompts.costs["grams"], prompts.scores[prompts.known]
        mean = chance.mean(axis=(0, 1))
        quality = (scores * mean[prompts.known]).sum() / scores[:, 0].sum()
        figures[f"validation/grams/price {price:g}"] = float(
            (grams * chance).sum() / grams[..., 0].sum()
        )
        figures[f"validation/quality/price {price:g}"] = float(quality)
    return figures


def validate(
    policy: Policy, sets: Sequence[PromptSet], pricings: Sequence[Pricing], config: PpoConfig
) -> tuple[Validation, Float64Array]:
    """Return a policy's metrics at its floors' prices, and its mean probabilities over the zones.

    The probabilities are the means over the zones' hours, shape (2, n, n_directives).

    Args:
        sets: the prompts in each zone.
        pricings: prices in each zone.
    """
    ratios: dict[str, float] = {}
    bounds: dict[str, float] = {}
    prices: dict[str, float] = {}
    overshoots: dict[str, float] = {}
    missed: dict[str, float] = {}
    shares: dict[str, list[list[float]]] = {}
    chances = []
    grams = base = 0.0
    for prompts, pricing in zip(sets, pricings, strict=True):
        intensity = prompts.intensity.ravel()
        points = pricing.points(prompts.tags, prompts.observations, intensity, Floors())
        chance = prompts.chances(policy, points)
        chances.append(chance.mean(axis=1))
        grams += float((prompts.costs["grams"] * chance).sum())
        base += float(prompts.costs["grams"][..., 0].sum())
        log_prices = points.log_price.reshape(chance.shape[:-1])
        log_latency = points.log_latency_price.reshape(chance.shape[:-1])
        groups = prompts.groups(together=config.floor_on == "all")
        found = prompts.measure(groups, chance, config.confidence)
        for group, measured in zip(groups, found, strict=True):
            tag, rows = int(group.tagged), group.rows
            bound = measured.quality - config.confidence * measured.quality_error
            if bound <= bounds.get(group.name, np.inf):
                ratios[group.name], bounds[group.name] = measured.quality, bound
            price = float(np.exp(np.median(log_prices[tag, rows])))
            prices[group.name] = max(price, prices.get(group.name, 0.0))
            shares.setdefault(group.name, []).append(chance[tag, rows].mean(axis=0).tolist())
            _note(missed, group.name, group.floor + config.safety - bound)
            for name, over in measured.overshoot.items():
                overshoots[name] = max(over, overshoots.get(name, -np.inf))
                latency = float(np.exp(np.median(log_latency[tag, rows])))
                prices[name] = max(latency, prices.get(name, 0.0))
                _note(missed, name, over)
    mean: Float64Array = np.mean(chances, axis=0)
    validation = Validation(
        grams / base if base > 0 else 1.0,
        ratios,
        bounds,
        prices,
        tuple(float(x) for x in mean.mean(axis=(0, 1))),
        {name: np.mean(of_zones, axis=0).tolist() for name, of_zones in shares.items()},
        overshoots,
        dict(sorted(missed.items(), key=lambda item: -item[1])),
    )
    return validation, mean


# A floor that is missed by less is kept: of untagged requests of a task, some get the higher price
# of a task that they resemble too, and the front is measured with one price for all.
TOLERANCE = 0.002


def _note(missed: dict[str, float], name: str, size: float) -> None:
    if size > TOLERANCE:
        missed[name] = max(size, missed.get(name, 0.0))
