"""The front's lookups: the price that a floor needs, against its definition."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.policy.front import COSTS, Curve, Front, load_front

PRICES = np.geomspace(0.02, 100, 9)


def curve(quality, error=0.0, overshoot=None, grams=None):
    quality = np.atleast_2d(np.array(quality, dtype=float))
    costs = {name: np.linspace(0.2, 1.0, quality.shape[1]) + 0 * quality for name in COSTS}
    if grams is not None:
        costs["grams"] = np.atleast_2d(np.array(grams, dtype=float))
    return Curve(
        quality,
        np.full(quality.shape, error),
        np.full(quality.shape, 0.01),
        costs,
        dict.fromkeys(COSTS, 1.0),
        None if overshoot is None else np.atleast_2d(np.array(overshoot, dtype=float)),
        100,
    )


def front(*curves, levels=(0.01,), zones=("NL",), **changed):
    made = dict(zip(zones, ({"faq": each} for each in curves), strict=True))
    given = {"confidence": 1.0, "safety": 0.0} | changed
    return Front(PRICES, np.array(levels), zones=made, **given)


qualities = st.lists(st.floats(0.3, 1.2), min_size=len(PRICES), max_size=len(PRICES))


@given(qualities, st.floats(0.0, 0.05), st.floats(0.4, 1.0), st.floats(0.0, 2.0))
def test_the_price_of_a_floor_and_every_higher_one_keep_it(quality, error, floor, confidence):
    made = front(curve(quality, error), confidence=confidence)
    point = made.point("NL", "faq", floor)
    bound = np.array(quality) - confidence * error
    if point.l0_share:
        # No price keeps the floor; what is missing comes from L0, whose quality is 1.
        assert bound[-1] < floor
        reached = (1 - point.l0_share) * bound[-1] + point.l0_share
        assert reached == pytest.approx(floor)
        return
    higher = np.log(PRICES) >= point.log_price - 1e-9
    assert bound[higher].min() >= floor - 1e-9
    # And it is the lowest such price: the next one below breaks the floor.
    below = np.flatnonzero(np.log(PRICES) < point.log_price - 1e-9)
    if below.size:
        assert bound[below[-1]] < floor


@given(qualities, st.floats(0.3, 1.1), st.floats(0.3, 1.1))
def test_a_higher_floor_never_has_a_lower_price(quality, one, other):
    made = front(curve(quality))
    low, high = (made.point("NL", "faq", floor) for floor in sorted((one, other)))
    assert low.log_price <= high.log_price + 1e-9
    assert low.l0_share <= high.l0_share + 1e-9


def test_the_price_is_one_that_was_measured():
    made = front(curve(np.linspace(0.8, 1.0, 9)))
    point = made.point("NL", "faq", 0.9125)
    assert np.exp(point.log_price) == pytest.approx(PRICES[5])
    assert made.figures("NL", "faq", point)["quality"] == pytest.approx(0.925)


def test_a_zone_that_was_not_measured_gets_the_dearest_price():
    made = front(curve(np.linspace(0.8, 1.0, 9)), curve(np.linspace(0.7, 1.0, 9)), zones=("A", "B"))
    assert made.point("C", "faq", 0.9) == made.point("B", "faq", 0.9)
    assert made.point("A", "faq", 0.9).log_price < made.point("B", "faq", 0.9).log_price


def test_safety_raises_the_floor():
    plain, safe = (front(curve(np.linspace(0.8, 1.0, 9)), safety=s) for s in (0.0, 0.03))
    assert safe.point("NL", "faq", 0.9) == plain.point("NL", "faq", 0.93)


def test_a_latency_limit_takes_the_least_price_of_latency_that_keeps_it():
    # A price of latency costs quality, so the floor then needs a higher price of quality.
    quality = [np.linspace(0.8, 1.0, 9), np.linspace(0.75, 0.99, 9), np.linspace(0.7, 0.98, 9)]
    overshoot = [np.linspace(-0.1, 0.5, 9), np.full(9, -0.1), np.full(9, -0.3)]
    made = front(curve(quality, overshoot=overshoot), levels=(0.01, 1.0, 30.0))
    kept = made.point("NL", "faq", 0.9)
    assert kept.limits_kept
    assert np.exp(kept.log_latency_price) == pytest.approx(1.0)
    assert kept.log_price > made.point("NL", "faq", 0.8).log_price
    assert np.exp(made.point("NL", "faq", 0.8).log_latency_price) == pytest.approx(0.01)
    never = front(
        curve(quality, overshoot=[np.full(9, 0.3), np.full(9, 0.2), np.full(9, 0.1)]),
        levels=(0.01, 1.0, 30.0),
    ).point("NL", "faq", 0.9)
    assert not never.limits_kept
    assert np.exp(never.log_latency_price) == pytest.approx(30.0)


def test_l0_in_the_mix_raises_costs_as_it_raises_quality():
    made = front(curve(np.linspace(0.5, 0.9, 9), grams=np.linspace(0.2, 0.6, 9)))
    point = made.point("NL", "faq", 0.95)
    figures = made.figures("NL", "faq", point)
    assert point.l0_share == pytest.approx(0.5)
    assert figures["quality"] == pytest.approx(0.95)
    assert figures["grams_ratio"] == pytest.approx(0.5 * 0.6 + 0.5)


def test_a_front_survives_its_file(tmp_path):
    made = front(curve(np.linspace(0.8, 1.0, 9), 0.0123456789, np.linspace(-0.2, 0.2, 9)))
    made.save(tmp_path / "front.json")
    loaded = load_front(tmp_path / "front.json")
    for floor in (0.5, 0.9, 0.95, 1.0):
        again = loaded.point("NL", "faq", floor)
        assert again[:3] == pytest.approx(made.point("NL", "faq", floor)[:3], abs=1e-4)
    assert loaded.schedule == made.schedule


@pytest.mark.parametrize(
    "damage",
    [
        lambda plain: plain["prices"].reverse(),
        lambda plain: plain["prices"].append(1000.0),
        lambda plain: plain["zones"].clear(),
        lambda plain: plain["zones"]["NL"]["faq"]["costs"].pop("grams"),
        lambda plain: plain["zones"]["NL"]["faq"]["quality"].append([1.0]),
        lambda plain: plain["zones"]["NL"]["faq"].update(quality=[[float("nan")] * 9]),
        lambda plain: plain.pop("confidence"),
    ],
)
def test_a_damaged_front_is_refused(tmp_path, damage):
    path = tmp_path / "front.json"
    front(curve(np.linspace(0.8, 1.0, 9))).save(path)
    plain = json.loads(path.read_text())
    damage(plain)
    path.write_text(json.dumps(plain))
    with pytest.raises((ValueError, KeyError, TypeError)):
        load_front(path)


def test_curves_of_different_shapes_are_refused():
    plain = curve(np.linspace(0.8, 1.0, 9)).to_json()
    plain["grams_error"] = [[0.1]]
    with pytest.raises(ValueError, match="differ in shape"):
        Curve.from_json(plain)
