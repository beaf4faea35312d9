"""Agreement with people decides what a judge may do."""

import numpy as np
import pytest
from statsmodels.stats.inter_rater import cohens_kappa

from serving.quality.judges.agreement import (
    FEWEST,
    FULL,
    RESULTS,
    Recognition,
    TrustTable,
    agreements,
    cohen_kappa,
    recognitions,
)
from tests.serving.quality.verdicts import verdict

LEAST = 0.4


def noisy(rng, count, agreeing):
    people = rng.choice(RESULTS, count, p=[0.2, 0.5, 0.3])
    return people, np.where(rng.random(count) < agreeing, people, rng.choice(RESULTS, count))


@pytest.mark.parametrize("agreeing", [0.0, 0.5, 0.95])
def test_kappa_and_its_interval_are_those_of_statsmodels(agreeing):
    people, judge = noisy(np.random.default_rng(1), 300, agreeing)
    table = [[np.sum((people == a) & (judge == b)) for b in RESULTS] for a in RESULTS]
    expected = cohens_kappa(np.array(table))
    kappa = cohen_kappa(list(zip(people, judge, strict=True)))
    assert kappa.kappa == pytest.approx(expected.kappa)
    assert (kappa.low, kappa.high) == pytest.approx((expected.kappa_low, expected.kappa_upp))


def test_the_interval_holds_the_true_kappa_in_small_samples_too():
    rng = np.random.default_rng(2)
    large = cohen_kappa(list(zip(*noisy(rng, 200_000, 0.6), strict=True))).kappa
    held = 0
    for _ in range(400):
        kappa = cohen_kappa(list(zip(*noisy(rng, 30, 0.6), strict=True)))
        held += kappa.low <= large <= kappa.high
    assert held / 400 > 0.92


def test_few_pairs_or_a_single_verdict_have_no_kappa():
    assert cohen_kappa([("tie", "tie")] * (FEWEST - 1)).kappa is None
    assert cohen_kappa([("tie", "tie")] * 100).kappa is None
    perfect = cohen_kappa([("tie", "tie"), ("worse", "worse")] * 30)
    assert perfect.kappa == 1
    assert perfect.low < 0.95


def judged_by_both(people, judge, task="arithmetic"):
    """Return the verdicts of a judge and of a person on the same pairs."""
    rows = []
    for person, machine in zip(people, judge, strict=True):
        first = verdict(result=str(machine), task=task)
        own = {"decision_id": first.decision_id, "decided": first.decided, "task": task}
        rows += [first, verdict(result=str(person), judge="people:ann", rubric=None, **own)]
    return rows


def trust_of(rows, **fields):
    return TrustTable(agreements(rows), (), LEAST).of(verdict(**fields))


def test_a_judge_whom_nobody_checked_may_tighten_but_not_loosen():
    assert trust_of([]) == (True, True, False)


def test_a_judge_that_agrees_with_people_may_do_everything():
    rows = judged_by_both(*noisy(np.random.default_rng(3), 200, 0.9))
    assert trust_of(rows) == FULL


def test_a_judge_that_disagrees_with_people_may_do_nothing():
    rows = judged_by_both(*noisy(np.random.default_rng(4), 200, 0.0))
    assert trust_of(rows) == (False, False, False)


def test_a_rare_task_takes_the_agreement_over_all_tasks():
    rows = judged_by_both(*noisy(np.random.default_rng(5), 200, 0.9))
    rows += judged_by_both(*noisy(np.random.default_rng(6), 5, 0.0), task="rare")
    assert trust_of(rows, task="rare") == FULL
    assert trust_of(rows, rubric="another") == (True, True, False)


def test_a_judge_that_turns_biased_may_not_loosen_any_more():
    rng = np.random.default_rng(7)
    people, judge = noisy(rng, 600, 0.9)
    rows = judged_by_both(people, judge)
    assert trust_of(rows) == FULL
    # Each tenth answer is raised to "better", so its credit rises by 10 points or less.
    people, judge = noisy(rng, 600, 0.9)
    judge = np.where(rng.random(600) < 0.2, "better", judge)
    rows += judged_by_both(people, judge)
    biased = trust_of(rows)
    assert not biased.loosen
    assert not biased.restore
    assert biased.tighten


def test_references_and_answers_that_are_equal_need_no_agreement():
    table = TrustTable((), (), LEAST)
    assert table.of(verdict(judge="reference", rubric=None)) == FULL
    assert table.of(verdict(judge="same", rubric=None)) == FULL


def test_a_judge_that_does_not_see_wrong_answers_may_not_give_a_policy_back():
    seen = recognitions([("llm:judge", "r1", "worse", 5), ("llm:judge", "r1", "tie", 40)])
    assert seen == [Recognition("llm:judge", "r1", 45, 5)]
    assert seen[0].blind
    assert TrustTable((), seen, LEAST).of(verdict()) == (True, False, False)
    good = recognitions([("llm:judge", "r1", "worse", 40), ("llm:judge", "r1", "failed", 9)])
    assert not good[0].blind
    assert not Recognition("llm:judge", "r1", 3, 0).blind
