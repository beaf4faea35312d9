import numpy as np
import pytest

from agents.policy.network import Policy
from agents.training.config import PpoConfig
from agents.training.lagrangian import Constraint
from agents.training.prepared import Prepared
from agents.training.prompts import PromptSet
from envs.carbon.csv_traces import synthetic_day
from envs.errors import ConfigError
from envs.outcomes.floors import BANDS, floor_schedule
from envs.outcomes.limits import Limit
from envs.outcomes.reward import Reward, reward_from_profile, untagged
from envs.requests.features import Featurizer
from envs.requests.workload import generate_requests
from envs.world import both_parts
from tests import made

FLOOR = 0.9


def policy(featurizer, logits, by_tag=()):
    width = len(featurizer.names)
    weight = np.zeros((3, width), np.float32)
    for task, row in by_tag:
        weight[row, featurizer.names.index(f"task={task}")] = 50
    return Policy(
        np.zeros(width, np.float32),
        np.ones(width, np.float32),
        ((weight, np.array(logits, np.float32)),),
    )


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    # Brief answers keep half of it, the shortest nothing.
    worth = {"none": 1.0, "brief": 0.5, "very_brief": 0.0}
    profile = made.profile(
        tmp_path_factory.mktemp("lagrangian"), generate_requests(20, seed=0), lambda r, d: worth[d]
    )
    featurizer = Featurizer(profile.tasks)
    parts = both_parts(featurizer, profile.requests)
    reward = reward_from_profile(profile, 300.0, {})
    prepared = Prepared(profile, profile, featurizer, parts, reward, "correct")
    return featurizer, PromptSet(prepared, synthetic_day(), 0)


def constraint(prompts, limits=None, **changed):
    floors = {"arithmetic": FLOOR, "recall": 0.4}
    reward = Reward(1.0, dict.fromkeys(floors, 1.0), floors, limits=limits or {})
    return Constraint(prompts, reward, PpoConfig(**changed))


def test_fixed_directives_come_to_their_closed_form(prompts):
    featurizer, of = prompts
    found = constraint(of).measure(policy(featurizer, (0, 50, 0)))
    assert list(found.ratio_by_task.values()) == pytest.approx([0.5] * 4)
    assert found.grams_ratio == pytest.approx(10 / 50, rel=1e-6)
    assert found.share == pytest.approx((0, 1, 0))


def test_tagged_and_untagged_requests_have_a_floor_each(prompts):
    featurizer, of = prompts
    # Whoever shows its tag gets L2; whoever does not, L0.
    chosen = policy(featurizer, (20, 0, 0), [(task, 2) for task in featurizer.tasks])
    found = constraint(of).measure(chosen)
    assert found.ratio_by_task["recall"] == pytest.approx(0)
    assert found.ratio_by_task[untagged("recall")] == pytest.approx(1)


def test_multipliers_rise_under_the_floor_and_fall_above(prompts):
    featurizer, of = prompts
    for logits, up in (((0, 50, 0), True), ((50, 0, 0), False)):
        moving = constraint(of)
        found = moving.measure(policy(featurizer, logits))
        once, twice = moving.moved(found, 1.0), moving.moved(found, 1.0)
        for task in ("arithmetic", untagged("arithmetic")):
            assert (once[task] > 2.0) == up
            assert (twice[task] > once[task]) == up


def test_at_the_end_a_shortfall_moves_prices_for_the_moment_a_fifth_as_far(prompts):
    featurizer, of = prompts
    steps = []
    for left in (1.0, 0.5, 0.0):
        moving = constraint(of, dual_rate=0.0)
        moved = moving.moved(moving.measure(policy(featurizer, (0, 50, 0))), left)
        steps.append(np.log(moved["arithmetic"] / 2.0))
    assert steps[0] > 0
    assert steps[1:] == pytest.approx([0.6 * steps[0], 0.2 * steps[0]])


def test_multipliers_stay_within_reach_for_ever(prompts):
    featurizer, of = prompts
    moving = constraint(of)
    found = moving.measure(policy(featurizer, (0, 50, 0)))
    for _ in range(500):
        moved = moving.moved(found, 1.0)
    assert 100 <= moved["arithmetic"] < 1000
    assert 0 < moved["recall"] <= 0.01


def test_a_fixed_multiplier_stays(prompts):
    featurizer, of = prompts
    fixed = constraint(of, fixed_multiplier=0.0)
    assert set(fixed.multipliers.values()) == {0.0}
    assert fixed.moved(fixed.measure(policy(featurizer, (0, 50, 0))), 1.0) == fixed.multipliers


def test_one_floor_for_all_lets_a_task_make_up_for_another(prompts):
    featurizer, of = prompts
    chosen = policy(featurizer, (20, 0, 0), [("recall", 2)])
    alone = constraint(of).measure(chosen).ratio_by_task
    together = constraint(of, floor_on="all").measure(chosen).ratio_by_task
    assert (alone["arithmetic"], alone["recall"]) == pytest.approx((1, 0))
    assert (together["arithmetic"], together["recall"]) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("wrong", [{"without": ("colour",)}, {"floor_on": "world"}])
def test_an_unknown_choice_is_refused(wrong):
    with pytest.raises(ConfigError, match="one of"):
        PpoConfig(**wrong)


def test_latency_limits_are_measured_in_closed_form(prompts):
    # Seconds are 0.5, 0.1 and 0.02 under the three directives.
    featurizer, of = prompts
    limits = {"recall": Limit(mean_seconds=0.2, p95_seconds=0.3)}
    half = policy(featurizer, (0, 0, -50))
    found = constraint(of, limits).measure(half)
    assert found.overshoot == pytest.approx({"recall mean": 0.3 / 0.2 - 1, "recall p95": 0.45})
    assert found.worst_margin == pytest.approx(-0.5)
    moving = constraint(of, limits)
    prices = moving.moved(found, 1.0)
    assert prices["recall mean"] > moving.prices["recall mean"]
    short = constraint(of, limits).measure(policy(featurizer, (0, 50, 0)))
    assert short.overshoot == pytest.approx({"recall mean": -0.5, "recall p95": -0.05})


def test_a_latency_limit_is_to_be_kept_with_confidence(prompts, monkeypatch):
    featurizer, of = prompts
    seconds = np.random.default_rng(0).uniform(0.5, 1.5, of.scores.shape)
    monkeypatch.setattr(of, "_seconds", seconds)
    always = policy(featurizer, (50, 0, 0))
    mean = float(seconds[of.of_task["recall"], 0].mean())
    limits = {"recall": Limit(mean_seconds=mean * 1.01)}
    found = constraint(of, limits, confidence=3.0).measure(always)
    assert found.overshoot["recall mean"] < 0 < found.overshoot_bound["recall mean"]
    assert found.worst_margin == pytest.approx(-found.overshoot_bound["recall mean"])


def test_a_limit_that_nothing_keeps_is_refused(prompts):
    _, of = prompts
    with pytest.raises(ConfigError, match="recall mean: no choice of directives keeps it"):
        constraint(of, {"recall": Limit(mean_seconds=0.01)})


def test_floors_that_yield_bind_in_each_band_of_the_grid(prompts):
    featurizer, of = prompts
    trace = synthetic_day()
    floors = {"arithmetic": 0.9, "recall": 0.4}
    reward = Reward(
        1.0, dict.fromkeys(floors, 1.0), floors, floor_schedule=floor_schedule(trace, 0.2)
    )
    bound = Constraint(of, reward, PpoConfig(confidence=0.0))
    assert len(bound.multipliers) == 2 * 3 * 2
    found = bound.measure(policy(featurizer, (0, 50, 0)))
    missed = bound.violations(found)
    # Brief answers keep half: enough for recall; of arithmetic less is missed where it is dirty.
    clean, middling, dirty = (missed[f"arithmetic, {band}"] for band in BANDS)
    assert 0.4 > clean > middling > dirty > 0.9 * 0.8 - 0.5
    assert not any(missed[f"recall, {band}"] for band in BANDS)
    moved = bound.moved(found, 1.0)
    assert moved["arithmetic, clean"] > moved["recall, clean"]
