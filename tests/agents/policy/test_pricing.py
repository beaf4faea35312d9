"""Prices by task, tag, zone, band and floor."""

from types import SimpleNamespace

import numpy as np
import pytest

from agents.policy.front import COSTS, Curve, Front
from agents.policy.pricing import Floor, Floors, Pricing, floors_from, pricing_of
from envs.outcomes.floors import FloorSchedule, untagged_name
from envs.requests.features import Featurizer
from envs.requests.structure import Feature

TASKS = ("faq", "legal")
LIKE = tuple(Feature(f"like={task}", "0..1", -1, 2, "") for task in TASKS)
FEATURIZER = Featurizer(TASKS, SimpleNamespace(features=LIKE))
PRICES = np.geomspace(0.1, 10, 401)
TRAINED = {"faq": 0.95, "legal": 0.95}


def rising(start):
    quality = np.linspace(start, 1.0, len(PRICES))[None]
    costs = dict.fromkeys(COSTS, quality)
    return Curve(quality, 0 * quality, 0 * quality, costs, dict.fromkeys(COSTS, 1.0), None, 9)


def front(schedule=None):
    """Return a front in which legal is dearer than faq, and an untagged task dearer than tagged."""
    starts = {"faq": 0.9, "legal": 0.6, untagged_name("faq"): 0.8, untagged_name("legal"): 0.5}
    if schedule is None:
        curves = {name: rising(start) for name, start in starts.items()}
        return Front(PRICES, np.array([0.01]), 1.0, 0.0, {"NL": curves})
    curves = {}
    for band in schedule.names("x"):
        for task, start in starts.items():
            name, _, tag = task.partition(" ")
            curves[f"{name}{band[1:]}{f' {tag}' if tag else ''}"] = rising(start)
    return Front(PRICES, np.array([0.01]), 1.0, 0.0, {"NL": curves}, schedule)


def part(**likes):
    values = np.zeros(len(FEATURIZER.names), np.float32)
    for task, like in likes.items():
        values[FEATURIZER.names.index(f"like={task}")] = like
    return values


OWN = Floors()


def price(pricing, task, floors=OWN, g_per_kwh=100.0, **likes):
    point, floor = pricing.point(task, part(**likes), g_per_kwh, floors)
    return point.log_price, floor


PRICING = Pricing(FEATURIZER, front(), TRAINED, zone="NL")


def test_each_task_has_the_price_of_its_own_curve_and_floor():
    for task in TASKS:
        expected = front().point("NL", task, 0.95)
        assert price(PRICING, task) == (expected.log_price, Floor(0.95, "policy"))


def test_an_untagged_request_is_priced_as_the_dearest_task_that_it_resembles():
    faq, legal = (front().point("NL", untagged_name(t), 0.95).log_price for t in TASKS)
    assert price(PRICING, None, faq=0.9, legal=0.1)[0] == pytest.approx(faq)
    assert price(PRICING, None, faq=0.6, legal=0.3)[0] == pytest.approx(legal)
    # Resembling none, it is priced as the one that it resembles most.
    assert price(PRICING, None, faq=0.1, legal=0.05)[0] == pytest.approx(faq)
    # A tag that the policy does not know is no tag.
    assert price(PRICING, "poem", faq=0.9, legal=0.1)[0] == pytest.approx(faq)


def test_floors_of_a_task_count_before_those_of_any_task_and_a_caller_can_only_raise_them():
    floors = Floors({"faq": Floor(0.97, "operator"), "*": Floor(0.8, "start")})
    assert price(PRICING, "faq", floors)[1] == Floor(0.97, "operator")
    assert price(PRICING, "legal", floors)[1] == Floor(0.8, "start")
    for asked, origin in ((0.5, "operator"), (0.99, "caller")):
        raised = Floors(floors.by_task, Floor(asked, "caller"))
        assert price(PRICING, "faq", raised)[1] == Floor(max(asked, 0.97), origin)


def test_a_higher_floor_has_a_higher_price():
    prices = [price(PRICING, "faq", floors_from({"*": f}, "start"))[0] for f in (0.9, 0.95, 0.99)]
    assert prices == sorted(prices)
    assert prices[0] < prices[-1]


def test_many_requests_get_the_prices_that_each_gets_alone():
    rng = np.random.default_rng(0)
    parts = np.zeros((60, len(FEATURIZER.names)), np.float32)
    parts[:, [FEATURIZER.names.index(f"like={t}") for t in TASKS]] = rng.uniform(-0.2, 1, (60, 2))
    tags = [(None, "faq", "legal", "poem")[i % 4] for i in range(60)]
    levels = rng.uniform(0, 600, 60)
    schedule = FloorSchedule(0.1, (200.0, 400.0), (0.1, 0.5, 0.9))
    for pricing in (PRICING, Pricing(FEATURIZER, front(schedule), TRAINED, zone="NL")):
        floors = Floors({"legal": Floor(0.9, "operator")}, Floor(0.85, "caller"))
        together = pricing.points(tags, parts, levels, floors)
        for i, tag in enumerate(tags):
            alone, _ = pricing.point(tag, parts[i], float(levels[i]), floors)
            assert [column[i] for column in together] == pytest.approx(alone[:3])


def test_floors_that_follow_the_grid_are_lower_where_it_is_dirty():
    schedule = FloorSchedule(0.2, (200.0, 400.0), (0.0, 0.5, 1.0))
    pricing = Pricing(FEATURIZER, front(schedule), TRAINED, zone="NL")
    clean, middling, dirty = (price(pricing, "legal", g_per_kwh=g)[0] for g in (100, 300, 500))
    assert clean > middling > dirty


def test_a_policy_without_a_front_keeps_its_floors_and_mixes_l0_in_for_higher_ones():
    fixed = {"faq": 2.0, untagged_name("faq"): 3.0, "legal": 4.0}
    pricing = Pricing(FEATURIZER, None, TRAINED, fixed)
    assert price(pricing, "faq")[0] == pytest.approx(np.log(2.0))
    assert price(pricing, None, faq=0.9)[0] == pytest.approx(np.log(3.0))
    point, _ = pricing.point("faq", part(), 100.0, floors_from({"*": 0.99}, "start"))
    assert point.l0_share == pytest.approx((0.99 - 0.95) / (1 - 0.95))
    both = part(faq=0.5, legal=0.5)
    untagged, _ = pricing.point(None, both, 100.0, floors_from({"*": 0.99}, "start"))
    assert untagged.l0_share == point.l0_share
    lower, _ = pricing.point("faq", part(), 100.0, floors_from({"*": 0.5}, "start"))
    assert lower.l0_share == 0


def test_a_policy_that_was_trained_without_prices_observes_none():
    pricing = Pricing(FEATURIZER, None, {})
    assert pricing.point("faq", part(), 100.0, Floors()) == ((0.0, 0.0, 0.0, True), None)


def test_a_fixed_price_takes_the_place_of_the_front():
    manifest = {"floors": TRAINED, "training": {"fixed_price": 2.0}}
    pricing = pricing_of(manifest, FEATURIZER, front(), "NL")
    assert price(pricing, "legal")[0] == pytest.approx(np.log(2.0))
