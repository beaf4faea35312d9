"""Fronts and validations of policies whose figures are known in closed form."""

from dataclasses import replace

import numpy as np
import pytest

from agents.policy.network import Policy
from agents.policy.pricing import Pricing
from agents.training.config import PpoConfig
from agents.training.fronts import CLOSEST, STEP, check_constraints, measure_front, validate
from agents.training.prepared import Prepared
from agents.training.prompts import PromptSet
from envs.carbon.csv_traces import synthetic_day
from envs.errors import ConfigError
from envs.outcomes.floors import BANDS, floor_schedule, untagged_name
from envs.outcomes.limits import Limit
from envs.outcomes.reward import reward_from_profile
from envs.requests.features import Featurizer
from envs.requests.workload import generate_requests
from envs.world import parts_by_tag
from tests import made

FLOORS = {"arithmetic": 0.9, "recall": 0.4}
PRICE = "log_price"


def policy(featurizer, logits, weights=()):
    """Return a policy with logits, and weights of some features on some directives' logits."""
    width = len(featurizer.names)
    weight = np.zeros((3, width), np.float32)
    for name, row, value in weights:
        weight[row, featurizer.names.index(name)] = value
    return Policy(
        np.zeros(width, np.float32),
        np.ones(width, np.float32),
        ((weight, np.array(logits, np.float32)),),
        clip=float("inf"),
    )


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    # Brief answers keep half of the quality, very brief ones nothing.
    worth = {"none": 1.0, "brief": 0.5, "very_brief": 0.0}
    return made.profile(
        tmp_path_factory.mktemp("fronts"), generate_requests(20, seed=0), lambda r, d: worth[d]
    )


def prompts(profile, slack=0.0, limits=None, trace=None, floors=FLOORS):
    trace = trace or synthetic_day()
    featurizer = Featurizer(profile.tasks)
    reward = reward_from_profile(profile, 300.0, floors)
    reward.limits = limits or {}
    reward.floor_schedule = floor_schedule(trace, slack)
    parts = parts_by_tag(featurizer, profile.requests)
    prepared = Prepared(profile, profile, featurizer, parts, reward, "correct")
    return PromptSet(prepared, trace, 0), reward, featurizer


def measured(profile, logits, weights=(), slack=0.0, limits=None, floors=FLOORS, **config):
    sets, reward, featurizer = prompts(profile, slack, limits, floors=floors)
    settings = PpoConfig(**config)
    chosen = policy(featurizer, logits, weights)
    front = measure_front(chosen, [sets], reward, settings)
    pricing = Pricing(featurizer, front, reward.floors, zone=sets.zone)
    return front, validate(chosen, [sets], [pricing], settings)[0]


def by_price(sharpness=2.0):
    """Return weights with which L0 is chosen at high prices, and very brief answers at low ones."""
    return [(PRICE, 0, sharpness), (PRICE, 2, -sharpness)]


def test_a_policy_that_ignores_prices_has_a_front_of_one_point(profile):
    front, found = measured(profile, (0, 50, 0))
    curve = front.zones["SYNTHETIC"]["recall"]
    assert curve.quality == pytest.approx(0.5)
    assert curve.costs["grams"] / curve.l0["grams"] == pytest.approx(10 / 50, rel=1e-6)
    assert curve.costs["completion_tokens"] == pytest.approx(10)
    assert found.share_by_task["recall"] == pytest.approx((0, 1, 0))


def test_the_front_ascends_from_the_least_cost_to_l0(profile):
    front, _ = measured(profile, (0, 0, 0), by_price())
    curve = front.zones["SYNTHETIC"]["recall"]
    assert (np.diff(curve.quality[0]) >= 0).all()
    assert (np.diff(curve.costs["grams"][0]) >= 0).all()
    assert curve.quality[0, 0] < 0.01
    assert curve.quality[0, -1] > 0.99


@pytest.mark.parametrize("sharpness", [2.0, 40.0])
def test_prices_are_close_where_quality_moves_and_far_apart_elsewhere(profile, sharpness):
    front, _ = measured(profile, (0, 0, 0), by_price(sharpness))
    ratios = front.prices[1:] / front.prices[:-1]
    steps = np.max([abs(np.diff(c.quality[0])) for c in front.zones["SYNTHETIC"].values()], axis=0)
    assert (ratios[steps > STEP] <= CLOSEST + 1e-9).all()
    assert ratios[steps < 1e-4].max() > 1.2


def test_at_the_prices_that_were_found_each_floor_is_just_kept(profile):
    _, found = measured(profile, (0, 0, 0), by_price())
    assert not found.missed
    for task, floor in FLOORS.items():
        assert floor <= found.bound_by_task[task] < floor + 0.03
        # Nothing tells the tasks of untagged requests apart, so all keep the highest floor.
        assert 0.9 <= found.bound_by_task[untagged_name(task)] < 0.93
    # Without a floor, the least cost.
    assert found.prices["choice"] == pytest.approx(PpoConfig.price_range[0])
    assert found.prices["arithmetic"] > found.prices["recall"]


def test_l0_makes_up_for_a_policy_that_no_price_makes_good_enough(profile):
    front, found = measured(profile, (0, 50, 0))
    point = front.point("SYNTHETIC", "arithmetic", 0.9)
    assert point.l0_share == pytest.approx(0.8)
    assert not found.missed
    assert found.ratio_by_task["arithmetic"] == pytest.approx(0.9)


def test_the_floor_is_kept_with_the_asked_confidence(profile):
    scores = profile.outcomes.correct
    scores[:, 1] = np.random.default_rng(0).integers(0, 2, len(scores))
    weights = [(PRICE, 0, 2.0), (PRICE, 1, -2.0)]
    ratios = {}
    for confidence in (0.0, 2.0):
        _, found = measured(profile, (0, 0, -50), weights, confidence=confidence)
        ratios[confidence] = found.ratio_by_task["arithmetic"]
    assert 0.9 <= ratios[0.0] < 0.91
    assert ratios[2.0] > 0.92
    scores[:, 1] = 0.5


def test_tagged_and_untagged_requests_have_a_price_each(profile):
    # The tag alone costs quality: it makes very brief answers likelier.
    tag = [("task=arithmetic", 2, 2.0)]
    _, found = measured(profile, (0, 0, 0), by_price() + tag)
    assert found.prices["arithmetic"] > found.prices[untagged_name("arithmetic")]
    assert not found.missed


def test_one_floor_for_all_lets_a_task_make_up_for_another(profile):
    sets, _, featurizer = prompts(profile)
    mixed = policy(featurizer, (20, 0, 0), [("task=recall", 2, 50)])
    for together, expected in ((False, (1, 0)), (True, (0.5, 0.5))):
        groups = [g for g in sets.groups(together=together) if g.name in FLOORS]
        ratios = [found.quality for found in sets.measure(groups, sets.chances(mixed), 1.0)]
        assert ratios == pytest.approx(expected)


def test_scheduled_floors_bind_in_each_band_of_the_grid(profile):
    front, found = measured(profile, (0, 0, 0), by_price(), slack=0.2, confidence=0.0)
    names = [f"arithmetic, {band}" for band in BANDS]
    ratios = [found.ratio_by_task[name] for name in names]
    assert 0.9 > ratios[0] > ratios[1] > ratios[2] > 0.9 * 0.8
    prices = [found.prices[name] for name in names]
    assert prices == sorted(prices, reverse=True)
    assert front.schedule.edges


def test_a_latency_limit_raises_the_price_of_latency(profile):
    # Seconds are 0.5, 0.1 and 0.02 under the three directives.
    limits = {"recall": Limit(mean_seconds=0.2)}
    # A price of latency makes brief answers likelier, and one of quality L0.
    weights = [(PRICE, 0, 2.0), (PRICE, 2, -2.0), ("log_latency_price", 1, 3.0)]
    front, _ = measured(profile, (0, 0, 0), weights, limits=limits)
    free, limited = (front.point("SYNTHETIC", task, 0.4) for task in ("arithmetic", "recall"))
    assert limited.limits_kept
    assert limited.log_latency_price > free.log_latency_price
    assert front.figures("SYNTHETIC", "recall", limited)["latency_seconds"] <= 0.2
    assert front.figures("SYNTHETIC", "arithmetic", free)["latency_seconds"] > 0.2


def test_a_limit_that_no_choice_of_directives_keeps_is_refused(profile):
    sets, reward, _ = prompts(profile, limits={"recall": Limit(mean_seconds=0.01)})
    with pytest.raises(ConfigError, match="recall mean: no choice of directives keeps it"):
        check_constraints([sets], reward, PpoConfig())


def test_a_limit_that_is_missed_is_named_with_its_size(profile):
    limits = {"recall": Limit(mean_seconds=0.2, p95_seconds=0.3)}
    _, found = measured(profile, (0, 0, -50), limits=limits, floors=dict.fromkeys(FLOORS, 0.4))
    # Half of the answers take 0.5 s, the others 0.1 s; no price changes that.
    assert found.missed["recall mean"] == pytest.approx(0.3 / 0.2 - 1, abs=0.05)
    assert list(found.missed.values()) == sorted(found.missed.values(), reverse=True)


def test_zones_have_prices_of_their_own_unless_they_are_pooled(profile):
    day = synthetic_day()
    dirtier = replace(day, zone="DIRTY", g_per_kwh=3 * day.g_per_kwh)
    sets, reward, featurizer = prompts(profile)
    dirty, _, _ = prompts(profile, trace=dirtier)
    # The dirtier the grid, the briefer the answers.
    weights = [*by_price(), ("log_intensity", 2, 1.5)]
    chosen = policy(featurizer, (0, -50, -8), weights)
    front = measure_front(chosen, [sets, dirty], reward, PpoConfig())
    prices = {z: front.point(z, "arithmetic", 0.9).log_price for z in ("SYNTHETIC", "DIRTY")}
    assert prices["DIRTY"] > prices["SYNTHETIC"]
    assert front.point("ELSEWHERE", "arithmetic", 0.9).log_price == prices["DIRTY"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"without": ("colour",)},
        {"without": ("price",)},
        {"floor_on": "world"},
        {"start_loss": "regret"},
        {"price_range": (2.0, 1.0)},
        {"price_range": (0.0, 1.0)},
        {"sharpness": 0.0},
    ],
)
def test_an_unknown_choice_is_refused(wrong):
    with pytest.raises(ConfigError, match=r"one of|above 0"):
        PpoConfig(**wrong)


def test_a_groups_errors_are_those_of_the_delta_method(profile):
    sets, _, featurizer = prompts(profile, limits={"recall": Limit(mean_seconds=0.2)})
    sets.scores[:, 1] = np.random.default_rng(1).uniform(0, 1, len(sets.scores))
    group = next(g for g in sets.groups(together=False) if g.name == "recall")
    chance = sets.chances(policy(featurizer, (0.3, 0.2, 0)))
    (found,) = sets.measure([group], chance, 2.0)
    # Each prompt is measured at several hours, which are not independent of one another.
    rows = group.rows.all(axis=0)
    assert (group.rows == rows).all()
    of_group = chance[1][:, rows]
    expected = (sets.scores[rows] * of_group).sum(axis=-1).mean(axis=0)
    base = sets.scores[rows, 0]
    ratio = expected.sum() / base.sum()
    error = (expected - ratio * base).std() * np.sqrt(len(base)) / base.sum()
    assert (found.quality, found.quality_error) == pytest.approx((ratio, error))
    grams = sets.costs["grams"][1][:, rows]
    spent, l0 = (grams * of_group).sum(axis=(0, -1)), grams[..., 0].sum(axis=0)
    residuals = spent - spent.sum() / l0.sum() * l0
    assert found.grams_error == pytest.approx(np.sqrt((residuals**2).sum()) / l0.sum())
    seconds = (profile.outcomes.latency_seconds[rows] / 0.2 - 1) * of_group
    excess = seconds.sum(axis=-1).mean(axis=0)
    bound = excess.mean() + 2 * excess.std() / np.sqrt(len(excess))
    assert found.overshoot == pytest.approx({"recall mean": bound})
