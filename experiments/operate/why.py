"""Why one recorded request got its directive, in words, from the ledger's features alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.policy.bundle import Bundle
from agents.policy.explain import turning_points
from envs.arrays import Float32Array
from envs.carbon.footprint import JOULES_PER_KWH
from envs.requests.features import LOG_ENERGY

_MG = 1000.0
# What the reasons of the ledger mean, for requests that no policy decided.
REASONS = {
    "hold_out": "none, because the conversation is held out to measure the savings",
    "opt_out": "none, because the caller sent x-sprout-opt-out",
    "no_transform": "none, because the caller sent Cache-Control: no-transform",
    "format": "none, because tools, a fixed format or a text to continue could break",
    "own_length": "none, because the request itself says how long its answer must be",
    "unlike_profile": "none, because the policy's training had nothing like it",
    "guard": "none, because the quality of such answers had fallen below its floor",
    "evaluation": "chosen by the evaluator, which made the answer only to judge another one",
    "not_canary": "none, because the conversation is not in the canary's share",
    "off": "none, because the mode was off",
    "unknown_model": "none, because no policy is for this model",
    "no_bundle": "none, because no policy was loaded",
    "refuses_directives": "none, because the model's server had refused directives before",
    "refused": "none, because the server refused the directive; the request was sent as it came",
    "unwritable": "none, because the steered request could not be written",
    "no_intensity": "none, because the carbon intensity was not known",
    "too_large": "none, because the request is larger than --decided-bytes",
    "unreadable": "none, because the request could not be read",
    "unknown_directive": "none, because a rule forces a directive that the policy does not have",
    "deadline": "none, because the policy missed --deadline",
    "failed": "none, because the decision failed; the log says where",
}


@dataclass(frozen=True)
class Weighed:
    """A directive against L0, as the policy's features foretell it for one request.

    Attributes:
        directive: its name.
        spared_mg: emissions that it spares, mgCO2e, operational; None if not foretold.
        price_mg: price of the quality that it costs, mgCO2e; None if unknown.
    """

    directive: str
    spared_mg: float | None
    price_mg: float | None


def explained(bundle: Bundle, record: Mapping[str, Any], features: Float32Array) -> dict[str, Any]:
    """Return why a policy chose a recorded request's directive, JSON-ready, with a sentence.

    Args:
        bundle: the policy that decided it.
        record: the ledger's record.
        features: its observation, shape (n_features,).
    """
    names = bundle.catalogue.names
    probabilities = bundle.policy.probabilities(features[None])[0]
    level = float(record["intensity_g_per_kwh"])
    chosen = record["directive"]
    # L0 is weighed against the directive that the policy would have taken in its place.
    others = [i for i in np.argsort(-probabilities) if names[i] != "none"]
    compared = chosen if chosen != "none" else names[int(others[0])]
    task, tagged = _task(bundle, record["task"], features)
    price = _price(bundle, record, features)
    weighed = _weighed(bundle, features, compared, level, price)
    turns = turning_points(bundle.policy, bundle.featurizer, features)
    ranges = [{"from_g_per_kwh": start, "directive": names[action]} for start, action in turns]
    result = {
        "decision_id": record["decision_id"],
        "directive": chosen,
        "applied": bool(record["applied"]),
        "reason": record["reason"],
        "probability": record["probability"],
        "intensity_g_per_kwh": level,
        "task": task,
        "task_is_tagged": tagged,
        "compared": compared,
        "spared_mg": weighed.spared_mg,
        "quality_price_mg": weighed.price_mg,
        "price": record.get("price"),
        "floor": record.get("floor"),
        "floor_from": record.get("floor_from"),
        "by_intensity": ranges,
    }
    return result | {"text": _sentence(result, weighed)}


def _sentence(result: Mapping[str, Any], weighed: Weighed) -> str:
    """Return the explanation in words; it does not know where the price is from."""
    level, chosen, compared = result["intensity_g_per_kwh"], result["directive"], weighed.directive
    subject = "it" if chosen == compared else compared
    text = f"{chosen}"
    if chosen != result["by_intensity"][_range(result)]["directive"]:
        text += f" (by chance: probability {result['probability']:.2g})"
    spared, price = weighed.spared_mg, weighed.price_mg
    if spared is None or price is None:
        text += f", at {level:.0f} gCO2e/kWh; the policy's training does not tell the cost"
    else:
        pays = spared > price
        agrees = pays == (chosen == compared)
        joint = "because" if agrees else "although"
        text += (
            f", {joint} at {level:.0f} gCO2e/kWh {subject} {_spares(spared)} and the quality it "
            f"costs in {_task_words(result)} is priced at {_mg(price)}"
        )
    for words in [*_elsewhere(result), *_price_words(result)]:
        text += f"; {words}"
    return text if result["applied"] else f"would have been {text} (mode shadow)"


def _spares(milligrams: float) -> str:
    if milligrams < 0:
        return f"costs {_mg(-milligrams)} more"
    return f"spares {_mg(milligrams)}"


def _mg(milligrams: float) -> str:
    return f"{milligrams:,.0f} mg" if milligrams >= 100 else f"{milligrams:.2g} mg"


def _task_words(result: Mapping[str, Any]) -> str:
    if result["task"] is None:
        return "this request"
    if result["task_is_tagged"]:
        return f"task {result['task']}"
    return f"what looks like task {result['task']}"


def _range(result: Mapping[str, Any]) -> int:
    """Return the index of the range of intensities that the request's lies in."""
    starts = [turn["from_g_per_kwh"] for turn in result["by_intensity"]]
    return max(i for i, start in enumerate(starts) if start <= result["intensity_g_per_kwh"])


def _elsewhere(result: Mapping[str, Any]) -> list[str]:
    """Return what the choice would have been at other intensities."""
    ranges, here = result["by_intensity"], _range(result)
    words = []
    if here > 0:
        below, limit = ranges[here - 1]["directive"], ranges[here]["from_g_per_kwh"]
        words.append(f"below {limit:.0f} gCO2e/kWh it would have been {below}")
    if here + 1 < len(ranges):
        above = ranges[here + 1]
        words.append(
            f"from {above['from_g_per_kwh']:.0f} gCO2e/kWh on it would have been "
            f"{above['directive']}"
        )
    return words or ["it would have been the same at any carbon intensity"]


# Who asks for a floor, by `agents.policy.pricing.Floor.origin`.
_ORIGINS = {
    "policy": "the policy's training",
    "start": "the flag or file of the start",
    "operator": "an operator's setting",
    "rule": "a rule",
    "caller": "the caller",
}


def _price_words(result: Mapping[str, Any]) -> list[str]:
    """Return at what price of quality the policy decided, and for which floor."""
    if result["price"] is None:
        return []
    words = f"the price of quality is {result['price']:.3g}"
    if result["floor"] is not None:
        origin = _ORIGINS.get(result["floor_from"], result["floor_from"])
        words += f", for the floor {result['floor']:.4g} of {origin}"
    return [words]


def _weighed(
    bundle: Bundle, features: Float32Array, directive: str, level: float, price: float | None
) -> Weighed:
    values = dict(zip(bundle.featurizer.names, features.tolist(), strict=True))
    joules = (bundle.manifest.get("energy") or {}).get("l0_joules")
    energy = [values.get(f"{LOG_ENERGY}{name}") for name in ("none", directive)]
    spared = None
    if joules is not None and energy[0] is not None and energy[1] is not None:
        ratio = float(np.exp(energy[0]) - np.exp(energy[1]))
        spared = _MG * ratio * joules / JOULES_PER_KWH * level
    quality = [values.get(f"quality={name}") for name in ("none", directive)]
    priced = None
    if price is not None and quality[0] is not None and quality[1] is not None:
        priced = _MG * price * max(0.0, quality[0] - quality[1])
    return Weighed(directive, spared, priced)


def _likeness(bundle: Bundle, task: str | None, features: Float32Array) -> dict[str, float]:
    """Return how much a request belongs to each task of the policy, as shares."""
    if task in bundle.featurizer.tasks:
        return {str(task): 1.0}
    values = dict(zip(bundle.featurizer.names, features.tolist(), strict=True))
    like = {name: max(0.0, values.get(f"like={name}", 0.0)) for name in bundle.featurizer.tasks}
    total = sum(like.values())
    return {name: value / total for name, value in like.items()} if total else {}


def _task(bundle: Bundle, task: str | None, features: Float32Array) -> tuple[str | None, bool]:
    """Return the request's task, or the one that it looks like most; and whether it is tagged."""
    like = _likeness(bundle, task, features)
    return max(like, key=lambda name: like[name], default=None), task in bundle.featurizer.tasks


def _price(bundle: Bundle, record: Mapping[str, Any], features: Float32Array) -> float | None:
    """Return the price of quality for a request, gCO2e per unit of the score; None if unknown.

    It is unknown too if the policy's cost is not made of grams alone.
    """
    price, grams = record.get("price"), bundle.manifest.get("footprint_ref_grams")
    objective = bundle.manifest.get("objective") or {}
    quality_l0 = bundle.manifest.get("quality_l0") or {}
    like = _likeness(bundle, record["task"], features)
    if price is None or grams is None or objective.get("grams") != 1.0 or not like:
        return None
    if any(not quality_l0.get(name) for name in like):
        return None
    return float(price * grams * sum(share / quality_l0[name] for name, share in like.items()))
