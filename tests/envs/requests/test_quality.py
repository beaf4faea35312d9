import math

import pytest

from envs.requests.quality import correctness


@pytest.mark.parametrize(
    ("task", "answer", "reference", "score"),
    [
        ("gsm8k", "So 3 + 4 = 7. The answer is 7.", "7", 1),
        ("gsm8k", "It is 1,234.", "1234", 1),
        ("gsm8k", "7, no: 8", "7", 0),
        ("arithmetic", "", "7", 0),
        ("mmlu", "A is wrong. The answer is (B).", "B", 1),
        ("choice", "crow C)", "A", 0),
        ("choice", "crow C) is wrong. The answer is A.", "A", 1),
        ("mmlu", "The answer is B. I hope this helps.", "B", 1),
        ("mmlu", "B. A cat is no dog.", "B", 1),
        ("mmlu", "The best choice is (C). Option (A) is too large.", "C", 1),
        ("mmlu", "ANSWER: B", "B", 1),
        ("mmlu", "To answer a question like this, we pick (C).", "C", 1),
        ("scienceqa", "Both are caused by heating.", '["B", "Both are caused by heating."]', 1),
        ("scienceqa", "(A) Both are caused by heating.", '["B", "Both are caused by heating."]', 0),
        ("arithmetic", "12", "twelve", 0),
        ("sequence", "first fox. The answer is Fox.", "fox", 1),
        ("recall", "The river is Tavo.", "Tavo", 1),
        ("recall", "The river is Tavora.", "Tavo", 0),
        ("triviaqa", "It was Paris, France", '["Lutetia", "Paris"]', 1),
    ],
)
def test_each_tasks_rule_scores_the_answer(task, answer, reference, score):
    assert correctness(task, answer, reference) == score


def test_without_a_reference_correctness_is_unknown():
    assert math.isnan(correctness("alpaca", "anything", None))
