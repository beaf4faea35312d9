"""Signs of satisfaction are read from people's turns, and compared between the arms."""

import asyncio
import itertools
import time
from dataclasses import replace

import numpy as np
import pytest

from envs.requests.projection import WordProjection
from envs.requests.structure import STRUCTURE
from serving.ledger.database import Ledger
from serving.ledger.quality.feedback import Feedback
from serving.ledger.quality.store import QualityStore
from serving.ledger.record import Record, new_id
from serving.proportions import Shares, anytime_difference, anytime_interval
from serving.quality.follow_up import asks_for_more, follow_up
from serving.quality.signs import read_signs
from tests.serving.hooks import CHAT, hook, records
from tests.serving.quality.verdicts import verdict


def chat(*questions):
    messages = []
    for question in questions:
        messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": "Yes."},
        ]
    return messages[:-1]


QUESTION = "Which rivers cross the Bavarian plateau?"


@pytest.mark.parametrize(
    ("questions", "expected"),
    [
        ((QUESTION,), None),
        ((QUESTION, QUESTION), "repeat"),
        ((QUESTION, "which rivers cross the bavarian plateau"), "repeat"),
        ((QUESTION, "Please elaborate."), "more"),
        ((QUESTION, "Geht es genauer?"), "more"),
        ((QUESTION, "Peux-tu donner plus de détails ?"), "more"),
        ((QUESTION, "请详细说明"), "more"),
        ((QUESTION, "もっと詳しく教えて"), "more"),
        ((QUESTION, "Расскажи больше"), "more"),
        ((QUESTION, "Thank you."), "other"),
        ((QUESTION, "And which mountains are near?"), "other"),
        ((QUESTION, "Please elaborate. " + "Then write a poem. " * 30), "other"),
        ((QUESTION, "Thank you.", QUESTION), "other"),
    ],
)
def test_a_later_turn_is_told_by_its_text(questions, expected):
    assert follow_up(chat(*questions), None) == expected


def test_the_policys_words_decide_which_questions_are_alike():
    words = ("the", "of", "capital", "france", "spain", "what", "is")
    idf = np.array([0.1, 0.1, 3.0, 3.0, 3.0, 0.1, 0.1], dtype=np.float32)
    zero = np.zeros((len(words), 0), dtype=np.float32)
    text = WordProjection(
        words, (), idf, zero, np.zeros((len(STRUCTURE), 0), np.float32), np.zeros(0, np.float32)
    )
    asked = "What is the capital of France?"
    assert follow_up(chat(asked, "France capital?"), text) == "repeat"
    # Without the policy's weights, two of six words are not much alike.
    assert follow_up(chat(asked, "France capital?"), None) == "other"
    assert follow_up(chat(asked, "What is the capital of Spain?"), text) == "other"
    assert text.likeness(["the"], []) == 0.0
    assert text.likeness(["unknown"], ["unknown"]) == pytest.approx(1.0)


def test_a_phrase_inside_a_word_is_none():
    assert not asks_for_more("Is Chicago on a lake?")
    assert asks_for_more("Go on!")


def test_the_record_of_a_turn_tells_what_it_is_about(tmp_path):
    own = hook(tmp_path)
    for messages in (chat(QUESTION), chat(QUESTION, "Elaborate, please."), "broken"):
        plan = asyncio.run(own.plan("/v1/chat/completions", {**CHAT, "messages": messages}, {}))
        own.finish(plan, own.answer(plan), "completed")
    assert [row["follow_up"] for row in records(own)] == [None, "more", None]
    own.close()


@pytest.mark.parametrize(
    ("reason", "cap", "tokens", "expected"),
    [
        ("stop", 4, 4, None),
        ("length", 4, 4, "directive"),
        ("length", None, 4, "caller"),
        ("length", 9, 4, "caller"),
    ],
)
def test_the_record_tells_whose_cap_cut_the_answer_off(tmp_path, reason, cap, tokens, expected):
    from envs.requests.directive import Catalogue, Directive

    catalogue = Catalogue((Directive("none"), Directive("brief", "Be brief.", cap)))
    own = hook(tmp_path, (0.0, 50.0), catalogue=catalogue)
    plan = asyncio.run(own.plan("/v1/chat/completions", CHAT, {}))
    answer = own.answer(plan)
    answer.start(200, [(b"content-type", b"application/json")])
    body = b'{"choices":[{"finish_reason":"%s","message":{"content":"x"}}],' % reason.encode()
    answer.feed(body + b'"usage":{"completion_tokens":%d}}' % tokens, False)
    own.finish(plan, answer, "completed")
    assert records(own)[0]["cut_off"] == expected
    own.close()


_numbers = itertools.count()


def conversation(ledger, *, hold_out, signs=(), task="faq", feedback=None, **changed):
    """Add a conversation of one opening and, for its signs, a later turn."""
    key = f"{next(_numbers):016x}"
    now = time.time() - 3600
    opening = Record(
        new_id(), now, "/v1/chat/completions", task=task, conversation=key, keyed_by="user",
        opening=True, mode="on", lottery=True, hold_out=hold_out, characters=10,
        outcome="completed",
    )  # fmt: skip
    opening = replace(opening, **changed)
    rows = [opening]
    later = {"time": now + 60, "opening": False, "characters": 30}
    for turn, sign in enumerate(signs):
        later |= {"characters": 30 + turn}
        if sign in ("repeat", "more", "other"):
            rows.append(replace(opening, decision_id=new_id(), **later, follow_up=sign))
        elif sign == "regenerated":
            rows.append(replace(opening, decision_id=new_id(), time=now + 5))
    ledger.add(rows)
    if feedback is not None:
        row = Feedback(key, opening.decision_id, now, "user", feedback, None, None)
        QualityStore(ledger).add_feedback([row])
    return opening.decision_id


@pytest.fixture
def ledger(ledger_url):
    new_ledger = Ledger(ledger_url)
    new_ledger.migrate()
    yield new_ledger
    new_ledger.close()


def signs_of(ledger):
    return read_signs(ledger, time.time() - 86400, time.time())


def test_signs_are_counted_by_conversation_in_both_arms(ledger):
    for n in range(40):
        conversation(ledger, hold_out=True, signs=("more",) if n < 2 else ())
        conversation(ledger, hold_out=False, signs=("more", "repeat", "more") if n < 20 else ())
    conversation(ledger, hold_out=False, signs=("regenerated",), outcome="client_left")
    conversation(ledger, hold_out=False, cut_off="directive", feedback=0.0)
    conversation(ledger, hold_out=False, cut_off="caller", feedback=1.0)
    # Neither a request without a lottery nor one in mode shadow tells the arms apart.
    conversation(ledger, hold_out=False, lottery=False, signs=("more",))
    conversation(ledger, hold_out=False, mode="shadow", signs=("more",))
    faq = signs_of(ledger)["tasks"]["faq"]
    assert (faq["draws"], faq["held_out_draws"]) == (43, 40)
    more = faq["signs"]["more"]
    assert more["policy"] == pytest.approx(20 / 43)
    assert more["l0"] == pytest.approx(0.05)
    assert more["difference"] == pytest.approx(20 / 43 - 0.05)
    low, high = more["interval"]
    assert 0 < low < more["difference"] < high
    counts = {name: round(43 * figures["policy"]) for name, figures in faq["signs"].items()}
    assert counts == {
        "follow_up": 20, "repeat": 20, "more": 20, "regenerated": 1, "cut_off": 1,
        "client_left": 1, "disliked": 1,
    }  # fmt: skip


def test_the_same_opening_of_several_people_is_no_regeneration(ledger):
    conversation(ledger, hold_out=False, signs=("regenerated",), keyed_by="message")
    assert signs_of(ledger)["tasks"]["faq"]["signs"]["regenerated"]["policy"] == 0


def test_an_arm_without_conversations_gives_no_difference(ledger):
    conversation(ledger, hold_out=False, task=None)
    figures = signs_of(ledger)["tasks"][""]["signs"]["more"]
    assert (figures["l0"], figures["difference"]) == (None, None)
    assert figures["interval"][0] <= 0 <= figures["interval"][1]


def test_scores_that_mean_something_to_people_correlate_with_what_they_do(ledger):
    rng = np.random.default_rng(0)
    for _ in range(200):
        good = rng.random() < 0.5
        content = rng.random() < (0.9 if good else 0.2)
        decision = conversation(
            ledger,
            hold_out=False,
            signs=("other",) if content else ("repeat",),
            feedback=float(content),
            outcome="completed" if rng.random() < 0.8 else "client_left",
        )
        result = "tie" if good else "worse"
        ledger.add(
            [verdict(decision_id=decision, result=result, task="faq", decided=time.time() - 100)]
        )
    rows = {row["sign"]: row for row in signs_of(ledger)["satisfaction"]}
    for sign in ("content", "feedback"):
        assert rows[sign]["answers"] == 200
        assert rows[sign]["interval"][0] > 0.5
    low, high = rows["stayed"]["interval"]
    assert low < 0.1
    assert high > -0.1


def test_few_reactions_have_no_correlation(ledger):
    decision = conversation(ledger, hold_out=False, feedback=1.0)
    ledger.add([verdict(decision_id=decision, task="faq", decided=time.time() - 100)])
    assert {row["correlation"] for row in signs_of(ledger)["satisfaction"]} == {None}


@pytest.mark.parametrize("p", [0.02, 0.3, 0.9])
def test_the_interval_of_a_share_holds_at_every_look(p):
    rng = np.random.default_rng(1)
    missed = 0
    for _ in range(100):
        sums = np.cumsum(rng.random(1500) < p)
        looks = range(1, 1500, 7)
        missed += any(
            not low <= p <= high
            for low, high in (anytime_interval(int(sums[n - 1]), n) for n in looks)
        )
    # At 5 %, more than 11 of 100 have a probability below 0.5 %.
    assert missed <= 11


@pytest.mark.parametrize("probabilities", [(0.1, 0.1), (0.5, 0.2)])
def test_the_interval_of_a_difference_holds_at_every_look(probabilities):
    rng = np.random.default_rng(2)
    missed, sizes = 0, (800, 100)
    for _ in range(100):
        sums = [np.cumsum(rng.random(n) < p) for n, p in zip(sizes, probabilities, strict=True)]
        looks = range(1, 100, 9)
        difference = probabilities[0] - probabilities[1]
        intervals = [
            anytime_difference(
                Shares(int(sums[0][8 * n - 1]), 8 * n), Shares(int(sums[1][n - 1]), n)
            )
            for n in looks
        ]
        missed += any(not low <= difference <= high for low, high in intervals)
    assert missed <= 11


def test_the_interval_of_a_difference_is_narrower_than_that_of_two_intervals():
    a, b = Shares(300, 1000), Shares(20, 200)
    low, high = anytime_difference(a, b)
    (a_low, a_high), (b_low, b_high) = (anytime_interval(*each, 0.025) for each in (a, b))
    assert a_low - b_high < low < 0.2 < high < a_high - b_low
    assert anytime_difference(Shares(0, 0), b) == (-1.0, 1.0)
    assert anytime_difference(Shares(5, 5), Shares(0, 5))[1] == 1.0


def test_the_interval_of_a_share_is_not_much_wider_than_it_must_be():
    low, high = anytime_interval(300, 1000)
    assert 0.24 < low < 0.3 < high < 0.36
    assert anytime_interval(0, 0) == (0.0, 1.0)
    assert anytime_interval(0, 50)[0] == 0.0
    assert anytime_interval(50, 50)[1] == 1.0
