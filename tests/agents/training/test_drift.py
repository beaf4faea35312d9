from dataclasses import replace

import numpy as np
import pytest

from agents.training.drift import COSTS, measure_drift
from agents.training.prepared import prepare
from envs.outcomes.outcome import Outcomes
from envs.outcomes.profile import Profile
from tests import made

KINDS = {"sums": "Add up {n} numbers, {n} in all.", "facts": "Who was number {n}?"}
DIRECTIVES = ("none", "brief", "very_brief")


def recorded(count, seed):
    """Profile with as many "tiny" as "huge" answers in each kind; a huge one costs 5 tiny ones."""
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
    """Live answers from the same world, measures scaled by `factor`; brief if `brief_if` occurs."""
    live = recorded(100, seed)
    brief = np.array([brief_if in r.messages[0]["content"] for r in live.requests])
    actions = np.where(brief, 1, 0) if actions is None else actions
    changed = {name: getattr(live.outcomes, name) * by for name, by in factor.items()}
    live = replace(live, outcomes=replace(live.outcomes, **changed))
    return live.requests, actions, live.outcomes_of(np.arange(len(live.requests)), actions)


def test_answers_from_the_same_world_rarely_count_as_drift(prepared):
    results = [drift for seed in range(1, 6) for drift in measure_drift(prepared, *played(seed))]
    assert {drift.measure for drift in results} == {*COSTS, "correct"}
    assert {drift.directive for drift in results} == {"brief"}
    # One interval in twenty misses the truth by chance.
    assert np.mean([drift.drifted for drift in results]) < 0.15


def test_repeated_prompts_add_no_evidence(prepared):
    rng = np.random.default_rng(0)
    results = []
    for seed in range(20, 40):
        requests, actions, _ = played(seed)
        live = recorded(100, seed)
        drawn = rng.integers(0, len(requests), 600)
        outcomes = live.outcomes_of(drawn, actions[drawn])
        results += measure_drift(prepared, [requests[i] for i in drawn], actions[drawn], outcomes)
    assert len(results) == 20 * 2 * 4
    assert np.mean([drift.drifted for drift in results]) < 0.12
    assert max(drift.answers for drift in results) <= 100


@pytest.mark.parametrize(
    ("measure", "factor", "change", "within"),
    [("energy_joules", 1.5, 1.5, 0.15), ("correct", 0.5, -0.4, 0.1)],
)
def test_a_change_is_detected_and_its_size_estimated(prepared, measure, factor, change, within):
    """The size is a ratio for a cost, and a difference for correctness."""
    results = measure_drift(prepared, *played(7, **{measure: factor}))
    moved = [drift for drift in results if drift.measure == measure]
    assert len(moved) == len(KINDS)
    for drift in moved:
        assert drift.drifted
        assert drift.change == pytest.approx(change, abs=within)
        assert drift.low < drift.change < drift.high


def test_a_few_verdicts_that_are_all_correct_are_no_drift(prepared):
    live = recorded(15, 50)
    live = live.with_quality("correct", np.ones_like(live.outcomes.correct))
    actions = np.zeros(len(live.requests), dtype=np.int64)
    outcomes = live.outcomes_of(np.arange(len(live.requests)), actions)
    results = measure_drift(prepared, live.requests, actions, outcomes)
    correct = [drift for drift in results if drift.measure == "correct"]
    assert len(correct) == len(KINDS)
    # 15 correct of 15, at a rate of nine in ten, happens one time in five.
    assert not any(drift.drifted for drift in correct)


def test_a_policy_that_shortens_only_the_easy_prompts_is_no_drift(prepared):
    """Plain mean costs of the brief answers would be a third of the profile's."""
    results = [
        drift
        for seed in range(9, 14)
        for drift in measure_drift(prepared, *played(seed, None, "tiny"))
    ]
    assert {drift.directive for drift in results} == {"none", "brief"}
    costs = [drift for drift in results if drift.measure in COSTS]
    assert all(0.85 < drift.change < 1.18 for drift in costs)
    assert np.mean([drift.drifted for drift in costs]) < 0.25


def test_a_handful_of_answers_gives_no_result(prepared):
    requests, actions, outcomes = played(3)
    end = [r.task for r in requests].index("facts") + 7
    rows = np.arange(end - 7, end)
    handful = replace(
        outcomes,
        **{
            name: value[rows]
            for name, value in vars(outcomes).items()
            if isinstance(value, np.ndarray)
        },
    )
    assert measure_drift(prepared, [requests[i] for i in rows], actions[rows], handful) == []
