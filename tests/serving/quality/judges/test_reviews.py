"""People judge blind, a fair selection of pairs, and each pair once."""

import itertools
import time

import pytest

from serving.quality.judges.reviews import MOST_PAIRS, Pair, Reviews
from tests.serving.quality.verdicts import verdict

CHAT = [{"role": "user", "content": [{"type": "text", "text": "What is 2 + 2?"}]}]


def pair(**changed):
    return Pair(verdict(**({"time": time.time()} | changed)), CHAT, "short", "long")


def test_a_reviewer_cannot_tell_which_answer_is_l0s():
    pairs = [pair() for _ in range(200)]
    firsts = [each.shown()["answers"]["A"] for each in pairs]
    assert 60 < firsts.count("long") < 140
    # The order does not change when it is shown again.
    assert [each.shown()["answers"]["A"] for each in pairs] == firsts
    assert set(pairs[0].shown()) == {"review_id", "task", "request", "answers"}
    assert pairs[0].shown()["request"] == [{"role": "user", "text": "What is 2 + 2?"}]


@pytest.mark.parametrize(
    ("preferred", "result", "quality", "l0_quality"),
    [("short", "better", 1.0, 0.0), ("long", "worse", 0.0, 1.0), (None, "tie", 1.0, 1.0)],
)
def test_the_choice_is_read_in_the_order_that_was_shown(preferred, result, quality, l0_quality):
    for each in itertools.islice(iter(pair, None), 20):
        answers = each.shown()["answers"]
        choice = next((name for name, text in answers.items() if text == preferred), "tie")
        judged = each.judged(choice, "ann")
        assert (judged.result, judged.quality, judged.l0_quality) == (result, quality, l0_quality)
        assert (judged.judge, judged.heeded, judged.rubric) == ("people:ann", False, None)
        assert judged.decision_id == each.verdict.decision_id


def test_every_reviewer_sees_every_pair_once():
    reviews = Reviews()
    for _ in range(3):
        reviews.add(pair())
    for reviewer in ("ann", "bob"):
        seen = set()
        while (each := reviews.next(reviewer)[0]) is not None:
            assert reviews.judge(each.key, "tie", reviewer).judge == f"people:{reviewer}"
            reviews.done(each.key, reviewer)
            seen.add(each.key)
        assert len(seen) == 3
        assert reviews.next(reviewer) == (None, 0)


def test_a_pair_whose_verdict_was_not_stored_is_shown_again():
    reviews = Reviews()
    reviews.add(pair())
    first, _ = reviews.next("ann")
    reviews.judge(first.key, "A", "ann")
    assert reviews.next("ann") == (first, 1)


def test_the_pairs_of_a_cell_are_bounded_and_a_fair_selection():
    late = 0
    for _ in range(40):
        reviews = Reviews()
        numbered = [pair() for _ in range(4 * MOST_PAIRS)]
        for each in numbered:
            reviews.add(each)
        kept = {each.key for each in reviews._pairs[next(iter(reviews._pairs))]}
        assert len(kept) == MOST_PAIRS
        late += len(kept & {each.key for each in numbered[2 * MOST_PAIRS :]})
    # Half of them are from the later half; within five standard errors.
    assert abs(late / (40 * MOST_PAIRS) - 0.5) < 0.09


def test_equal_answers_and_very_long_ones_are_not_shown():
    reviews = Reviews()
    reviews.add(Pair(verdict(), CHAT, "same", "same"))
    reviews.add(Pair(verdict(), CHAT, "short", "x" * 1_000_000))
    assert reviews.next("ann") == (None, 0)


def test_old_pairs_and_those_of_deleted_requests_are_dropped():
    reviews = Reviews()
    old, deleted, kept = pair(time=time.time() - 8 * 86400), pair(), pair()
    for each in (old, deleted, kept):
        reviews.add(each)
    reviews.forget(deleted.verdict.decision_id)
    assert reviews.next("ann") == (kept, 1)
    reviews.done(kept.key, "ann")
    reviews.forget(kept.verdict.decision_id)
    assert reviews.next("ann") == (None, 0)
    assert reviews._reviewed == set()


def test_an_unknown_pair_is_an_error():
    with pytest.raises(KeyError, match="no such pair"):
        Reviews().judge("x", "A", "ann")
