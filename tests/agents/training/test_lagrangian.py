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
from envs.outcomes.reward import Reward, reward_from_profile, untagged_name
from envs.requests.features import Featurizer
from envs.requests.workload import generate_requests
from envs.world import parts_by_tag
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
    # Brief answers keep half of the quality, very brief ones nothing.
    worth = {"none": 1.0, "brief": 0.5, "very_brief": 0.0}
    profile = made.profile(
        tmp_path_factory.mktemp("lagrangian"), generate_requests(20, seed=0), lambda r, d: worth[d]
    )
    featurizer = Featurizer(profile.tasks)
    parts = parts_by_tag(featurizer, profile.requests)
    reward = reward_from_profile(profile, 300.0, {})
    prepared = Prepared(profile, profile, featurizer, parts, reward, "correct")
    return featurizer, PromptSet(prepared, synthetic_day(), 0)


def constraint(prompts, limits=None, **changed):
    floors = {"arithmetic": FLOOR, "recall": 0.4}
    reward = Reward(1.0, dict.fromkeys(floors, 1.0), floors, limits=limits or {})
    return Constraint(prompts, reward, PpoConfig(**changed))


def test_a_fixed_directives_figures_have_their_closed_form(prompts):
    featurizer, prompt_set = prompts
    measured = constraint(prompt_set).measure(policy(featurizer, (0, 50, 0)))
    assert list(measured.ratio_by_task.values()) == pytest.approx([0.5] * 4)
    assert measured.grams_ratio == pytest.approx(10 / 50, rel=1e-6)
    assert measured.share == pytest.approx((0, 1, 0))


def test_tagged_and_untagged_requests_have_a_floor_each(prompts):
    featurizer, prompt_set = prompts
    # Requests with their task's tag get L2, those without get L0.
    by_tag = policy(featurizer, (20, 0, 0), [(task, 2) for task in featurizer.tasks])
    measured = constraint(prompt_set).measure(by_tag)
    assert measured.ratio_by_task["recall"] == pytest.approx(0)
    assert measured.ratio_by_task[untagged_name("recall")] == pytest.approx(1)


def test_missed_floors_are_named_with_their_size_the_worst_first(prompts):
    featurizer, prompt_set = prompts
    measured = constraint(prompt_set)
    brief = measured.measure(policy(featurizer, (0, 50, 0)))
    missed = measured.missed(brief)
    # Brief answers keep half of the quality: enough for the floor of 0.4, not for that of 0.9.
    assert missed.keys() == {"arithmetic", "arithmetic (untagged)"}
    assert min(missed.values()) >= FLOOR - 0.5 - 1e-9
    assert list(missed.values()) == sorted(missed.values(), reverse=True)
    assert measured.missed(measured.measure(policy(featurizer, (50, 0, 0)))) == {}


def test_multipliers_rise_below_the_floor_and_fall_above_it(prompts):
    featurizer, prompt_set = prompts
    for logits, up in (((0, 50, 0), True), ((50, 0, 0), False)):
        bound = constraint(prompt_set)
        measured = bound.measure(policy(featurizer, logits))
        once, twice = bound.moved(measured, 1.0), bound.moved(measured, 1.0)
        for task in ("arithmetic", untagged_name("arithmetic")):
            assert (once[task] > 2.0) == up
            assert (twice[task] > once[task]) == up


def test_the_immediate_effect_of_a_shortfall_shrinks_to_a_fifth_by_the_end(prompts):
    featurizer, prompt_set = prompts
    steps = []
    for remaining in (1.0, 0.5, 0.0):
        bound = constraint(prompt_set, dual_rate=0.0)
        moved = bound.moved(bound.measure(policy(featurizer, (0, 50, 0))), remaining)
        steps.append(np.log(moved["arithmetic"] / 2.0))
    assert steps[0] > 0
    assert steps[1:] == pytest.approx([0.6 * steps[0], 0.2 * steps[0]])


def test_multipliers_stay_bounded_after_many_updates(prompts):
    featurizer, prompt_set = prompts
    bound = constraint(prompt_set)
    measured = bound.measure(policy(featurizer, (0, 50, 0)))
    for _ in range(500):
        moved = bound.moved(measured, 1.0)
    assert 100 <= moved["arithmetic"] < 1000
    assert 0 < moved["recall"] <= 0.01


def test_a_fixed_multiplier_does_not_move(prompts):
    featurizer, prompt_set = prompts
    fixed = constraint(prompt_set, fixed_multiplier=0.0)
    assert set(fixed.multipliers.values()) == {0.0}
    assert fixed.moved(fixed.measure(policy(featurizer, (0, 50, 0))), 1.0) == fixed.multipliers


def test_one_floor_for_all_lets_a_task_make_up_for_another(prompts):
    featurizer, prompt_set = prompts
    mixed = policy(featurizer, (20, 0, 0), [("recall", 2)])
    by_task = constraint(prompt_set).measure(mixed).ratio_by_task
    together = constraint(prompt_set, floor_on="all").measure(mixed).ratio_by_task
    assert (by_task["arithmetic"], by_task["recall"]) == pytest.approx((1, 0))
    assert (together["arithmetic"], together["recall"]) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("wrong", [{"without": ("colour",)}, {"floor_on": "world"}])
def test_an_unknown_choice_is_refused(wrong):
    with pytest.raises(ConfigError, match="one of"):
        PpoConfig(**wrong)


def test_latency_limits_are_measured_in_closed_form(prompts):
    # Seconds are 0.5, 0.1 and 0.02 under the three directives.
    featurizer, prompt_set = prompts
    limits = {"recall": Limit(mean_seconds=0.2, p95_seconds=0.3)}
    half = policy(featurizer, (0, 0, -50))
    measured = constraint(prompt_set, limits).measure(half)
    assert measured.overshoot == pytest.approx({"recall mean": 0.3 / 0.2 - 1, "recall p95": 0.45})
    assert measured.worst_margin == pytest.approx(-0.5)
    bound = constraint(prompt_set, limits)
    prices = bound.moved(measured, 1.0)
    assert prices["recall mean"] > bound.prices["recall mean"]
    short = constraint(prompt_set, limits).measure(policy(featurizer, (0, 50, 0)))
    assert short.overshoot == pytest.approx({"recall mean": -0.5, "recall p95": -0.05})


def test_a_latency_limit_is_checked_at_the_upper_confidence_bound(prompts, monkeypatch):
    featurizer, prompt_set = prompts
    seconds = np.random.default_rng(0).uniform(0.5, 1.5, prompt_set.scores.shape)
    monkeypatch.setattr(prompt_set, "_seconds", seconds)
    always = policy(featurizer, (50, 0, 0))
    mean = float(seconds[prompt_set.of_task["recall"], 0].mean())
    limits = {"recall": Limit(mean_seconds=mean * 1.01)}
    measured = constraint(prompt_set, limits, confidence=3.0).measure(always)
    assert measured.overshoot["recall mean"] < 0 < measured.overshoot_bound["recall mean"]
    assert measured.worst_margin == pytest.approx(-measured.overshoot_bound["recall mean"])


def test_a_limit_that_no_choice_of_directives_keeps_is_refused(prompts):
    _, prompt_set = prompts
    with pytest.raises(ConfigError, match="recall mean: no choice of directives keeps it"):
        constraint(prompt_set, {"recall": Limit(mean_seconds=0.01)})


def test_scheduled_floors_bind_in_each_band_of_the_grid(prompts):
    featurizer, prompt_set = prompts
    trace = synthetic_day()
    floors = {"arithmetic": 0.9, "recall": 0.4}
    reward = Reward(
        1.0, dict.fromkeys(floors, 1.0), floors, floor_schedule=floor_schedule(trace, 0.2)
    )
    bound = Constraint(prompt_set, reward, PpoConfig(confidence=0.0))
    assert len(bound.multipliers) == 2 * 3 * 2
    measured = bound.measure(policy(featurizer, (0, 50, 0)))
    missed = bound.violations(measured)
    # Brief answers keep half: enough for recall, but arithmetic falls short, least in dirty hours.
    clean, middling, dirty = (missed[f"arithmetic, {band}"] for band in BANDS)
    assert 0.4 > clean > middling > dirty > 0.9 * 0.8 - 0.5
    assert not any(missed[f"recall, {band}"] for band in BANDS)
    moved = bound.moved(measured, 1.0)
    assert moved["arithmetic, clean"] > moved["recall, clean"]
