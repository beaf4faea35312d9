"""Mode shadow's foretold figures, against traffic whose true saving and quality are known."""

import numpy as np
import pytest

from serving.savings.estimate import MIN_DRAWS
from serving.savings.shadow import COLUMNS, foretell_shadow

DAY = 86400.0


def cell(ratio, quality, weight=50.0, error=0.0):
    return {
        "weight": weight,
        "joules": 10 * ratio,
        "joules_l0": 10.0,
        "joules_ratio_error": error,
        "quality": 0.8 * quality,
        "quality_l0": 0.8,
        "quality_ratio_error": error,
    }


def policy(error=0.0):
    chosen = {
        "": {"none": cell(1.0, 1.0), "brief": cell(0.5, 0.9, error=error)},
        "faq": {"none": cell(1.0, 1.0), "brief": cell(0.2, 1.0, error=error)},
        "proof": {"none": cell(1.0, 1.0), "brief": cell(0.5, 0.5, weight=1.0)},
    }
    l0 = {"faq": 0.8, "proof": 0.8}
    manifest = {"floors": {"faq": 0.95}, "foretold": {"chosen": chosen}, "quality_l0": l0}
    return {"v": manifest, "stricter": manifest | {"floors": {"faq": 0.99}}}


def row(number, **values):
    base = {
        "time": DAY * number / 100,
        "conversation": f"{number:016x}",
        "opening": True,
        "mode": "shadow",
        "reason": "policy",
        "outcome": "completed",
        "hold_out": False,
        "task": "faq",
        "directive": "brief",
        "policy_version": "v",
        "grams": 1.0,
    }
    return [(base | values)[name] for name in COLUMNS]


def foretold(rows, error=0.0, hold_out=0.05):
    until = max(row[0] for row in rows) if rows else 0.0
    return foretell_shadow(rows, policy(error), until, hold_out, canary_ratio=0.1)


def test_saving_and_quality_are_foretold_by_task_and_in_total():
    faq = [row(n, directive="brief" if n % 2 else "none") for n in range(100)]
    untagged = [row(n, task=None, grams=3.0) for n in range(100, 200)]
    shadow = foretold(faq + untagged)
    assert shadow["tasks"]["faq"]["saving"] == pytest.approx(0.4)
    assert shadow["tasks"]["faq"]["directives"] == {"brief": 0.5, "none": 0.5}
    assert shadow["tasks"]["faq"]["floor"] == 0.95
    assert shadow["tasks"]["untagged"]["quality"] == pytest.approx(0.9)
    assert shadow["saving"] == pytest.approx((100 * 0.4 + 300 * 0.5) / 400)
    low, high = shadow["saving_ci95"]
    assert low < shadow["saving"] < high


def test_the_error_of_the_training_widens_the_interval():
    rows = [row(n) for n in range(100)]
    assert foretold(rows)["saving_ci95"] == pytest.approx((0.8, 0.8))
    assert foretold(rows, error=0.01)["saving_ci95"] == pytest.approx((0.7804, 0.8196), abs=1e-4)
    assert foretold(rows, error=0.01)["quality_ci95"] == pytest.approx((0.98, 1.02), abs=1e-3)


@pytest.mark.parametrize(
    "changed",
    [
        {"mode": "on"},
        {"reason": "opt_out"},
        {"hold_out": True, "directive": "none"},
        {"outcome": "decided"},
    ],
)
def test_other_requests_do_not_count(changed):
    rows = [row(n) for n in range(50)]
    told, alone = foretold(rows + [row(n, **changed) for n in range(50, 90)]), foretold(rows)
    for name in ("requests", "directives", "saving", "quality", "tasks"):
        assert told[name] == alone[name]
    assert told["left_alone"] == ({"opt_out": 40} if changed == {"reason": "opt_out"} else {})


@pytest.mark.parametrize(
    "changed", [{"task": "proof"}, {"reason": "rule"}, {"policy_version": "old"}, {"grams": None}]
)
def test_what_training_cannot_tell_is_said_to_be_unknown(changed):
    shadow = foretold([row(n, **changed) for n in range(50)])
    assert (shadow["saving"], shadow["foretold_ratio"]) == (None, 0.0)
    assert shadow["plan"]["conversations"] is None
    assert shadow["directives"] == {"brief": 1.0}


def test_too_few_draws_give_no_interval_and_no_plan():
    shadow = foretold([row(n % (MIN_DRAWS - 1)) for n in range(100)])
    assert (shadow["saving_ci95"], shadow["plan"]["conversations"]) == (None, None)


def test_the_planned_number_of_conversations_gives_the_planned_interval():
    # As many conversations as planned, with the costs seen here, in both arms of a hold-out.
    rng = np.random.default_rng(0)
    costs = rng.gamma(2.0, 1.0, 4000)
    rows = [row(n, grams=cost, directive="brief") for n, cost in enumerate(costs)]
    plan = foretold(rows, hold_out=0.1)["plan"]
    assert plan["conversations_per_day"] == pytest.approx(100, rel=0.01)
    assert plan["days"] == pytest.approx(plan["conversations"] / 100, rel=0.01)
    assert plan["canary_ratio"] == 0.1
    count = plan["conversations"]
    ratios = []
    for _ in range(2000):
        held = rng.random(count) < 0.1
        cost = rng.choice(costs, count)
        ratios.append(0.2 * cost[~held].mean() / cost[held].mean())
    assert 1.96 * np.std(ratios) == pytest.approx(0.05, rel=0.2)
    assert foretold(rows, hold_out=0.0)["plan"]["conversations"] is None


def test_requests_that_stay_at_l0_count_as_what_they_cost_whatever_training_knows():
    # Training knows next to nothing of "none" in the task "proof".
    rows = [row(n, directive="brief") for n in range(50)]
    rows += [row(n, task="proof", directive="none") for n in range(50, 75)]
    rows += [row(n, directive="none", reason="rule") for n in range(75, 100)]
    shadow = foretold(rows)
    assert (shadow["saving"], shadow["foretold_ratio"]) == (pytest.approx(0.4), 1.0)
    assert shadow["tasks"]["proof"]["quality"] == pytest.approx(1.0)


def test_of_several_policies_floors_the_highest_is_shown():
    rows = [row(n, policy_version=("v", "stricter")[n % 2]) for n in range(50)]
    assert foretold(rows)["tasks"]["faq"]["floor"] == 0.99


def test_held_out_conversations_count_in_the_rate_of_the_plan():
    rows = [row(n, hold_out=n % 2 == 1, directive="brief") for n in range(1000)]
    plan = foretold(rows)["plan"]
    assert plan["conversations_per_day"] == pytest.approx(100, rel=0.01)
