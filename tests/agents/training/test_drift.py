from dataclasses import replace

import numpy as np
import pytest

from agents.training.drift import COSTS, drifts
from agents.training.prepared import prepare
from envs.outcomes.outcome import Outcomes
from envs.outcomes.profile import Profile
from tests import made

KINDS = {"sums": "Add up {n} numbers, {n} in all.", "facts": "Who was number {n}?"}
DIRECTIVES = ("none", "brief", "very_brief")


def recorded(count, seed):
    """Half of each kind ask for a "tiny" answer, half for a "huge" one of five times the cost."""
    rng = np.random.default_rng(seed)
    requests = []
    for r in made.chats(count, KINDS, seed):
        size = ("tiny", "huge")[int(rng.random() < 0.5)]
        text = f"{r.messages[0]['content']} Give a {size} answer."
        requests.append(replace(r, messages=({"role": "user", "content": text},)))
    huge = np.array(["huge" in r.messages[0]["content"] for r in requests])
    joules = np.where(huge, 50.0, 10.0)[:, None] * np.array([1.0, 0.3, 0.1])
    joules = joules * rng.lognormal(0, 0.2, joules.shape)
    seconds = np.sqrt(joules)  # not in proportion: batching hides part of a long answer
    correct = (rng.random(joules.shape) < [0.9, 0.8, 0.6]).astype(float)
    costs = {"completion_tokens": joules, "energy_joules": joules}
    costs |= {"latency_seconds": seconds, "device_seconds": seconds}
    outcomes = Outcomes(
        energy_method="estimated",
        prompt_tokens=np.full(joules.shape, 20.0),
        **costs,
        correct=correct,
        preference=np.full(joules.shape, np.nan),
    )
    return Profile(tuple(requests), DIRECTIVES, "made", outcomes)


@pytest.fixture(scope="module")
def prepared():
    return prepare(recorded(200, 0), dict.fromkeys(KINDS, 0.9), 200.0, quality="correct")


def played(seed, actions=None, brief_if="answer", **factor):
    """Live answers from the same world, some of them made dearer; briefly where a word says so."""
    live = recorded(100, seed)
    said = np.array([brief_if in r.messages[0]["content"] for r in live.requests])
    actions = np.where(said, 1, 0) if actions is None else actions
    changed = {name: getattr(live.outcomes, name) * by for name, by in factor.items()}
    live = replace(live, outcomes=replace(live.outcomes, **changed))
    return live.requests, actions, live.outcomes_of(np.arange(len(live.requests)), actions)


def test_the_same_world_hardly_drifts(prepared):
    found = [one for seed in range(1, 6) for one in drifts(prepared, *played(seed))]
    assert {one.measure for one in found} == {*COSTS, "correct"}
    assert {one.directive for one in found} == {"brief"}
    # One interval in twenty leaves out the truth.
    assert np.mean([one.drifted for one in found]) < 0.15


def test_prompts_asked_again_and_again_are_no_more_evidence(prepared):
    rng = np.random.default_rng(0)
    found = []
    for seed in range(20, 40):
        requests, actions, _ = played(seed)
        live = recorded(100, seed)
        drawn = rng.integers(0, len(requests), 600)
        outcomes = live.outcomes_of(drawn, actions[drawn])
        found += drifts(prepared, [requests[i] for i in drawn], actions[drawn], outcomes)
    assert len(found) == 20 * 2 * 4
    assert np.mean([one.drifted for one in found]) < 0.12
    assert max(one.answers for one in found) <= 100


@pytest.mark.parametrize(
    ("measure", "factor", "change", "within"),
    [("energy_joules", 1.5, 1.5, 0.15), ("correct", 0.5, -0.4, 0.1)],
)
def test_a_change_is_told_by_how_much(prepared, measure, factor, change, within):
    """Dearer answers as a ratio, worse ones as a difference."""
    found = drifts(prepared, *played(7, **{measure: factor}))
    moved = [one for one in found if one.measure == measure]
    assert len(moved) == len(KINDS)
    for one in moved:
        assert one.drifted
        assert one.change == pytest.approx(change, abs=within)
        assert one.low < one.change < one.high


def test_a_few_verdicts_that_are_all_right_are_no_drift(prepared):
    live = recorded(15, 50)
    live = live.with_quality("correct", np.ones_like(live.outcomes.correct))
    actions = np.zeros(len(live.requests), dtype=np.int64)
    outcomes = live.outcomes_of(np.arange(len(live.requests)), actions)
    found = drifts(prepared, live.requests, actions, outcomes)
    correct = [one for one in found if one.measure == "correct"]
    assert len(correct) == len(KINDS)
    # 15 of 15, where nine in ten are right: that happens one time in five.
    assert not any(one.drifted for one in correct)


def test_a_policy_that_picks_the_easy_ones_is_no_drift(prepared):
    """Bare means of the briefly answered would be a third of the profile's."""
    found = [one for seed in range(9, 14) for one in drifts(prepared, *played(seed, None, "tiny"))]
    assert {one.directive for one in found} == {"none", "brief"}
    costs = [one for one in found if one.measure in COSTS]
    assert all(0.85 < one.change < 1.18 for one in costs)
    assert np.mean([one.drifted for one in costs]) < 0.25


def test_a_handful_of_answers_tells_nothing(prepared):
    requests, actions, outcomes = played(3)
    few = [r.task for r in requests].index("facts") + 7
    kept = np.arange(few - 7, few)
    some = replace(
        outcomes,
        **{
            name: value[kept]
            for name, value in vars(outcomes).items()
            if isinstance(value, np.ndarray)
        },
    )
    assert drifts(prepared, [requests[i] for i in kept], actions[kept], some) == []
