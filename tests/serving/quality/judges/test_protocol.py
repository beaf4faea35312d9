"""References score answers by their task's rule, and wrong files of them are named."""

import json

import pytest

from envs.errors import DataError
from serving.quality.judges.protocol import (
    Reference,
    ReferenceJudge,
    compared,
    prompt_key,
    read_references,
    text_of,
)


def judge(*rows):

    return ReferenceJudge(
        {prompt_key(prompt): Reference(task, text) for prompt, task, text in rows}
    )


def chat(text):
    return [{"role": "system", "content": "Be kind."}, {"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("task", "reference", "right", "wrong"),
    [
        ("gsm8k", "1,024", "It is 1024.", "It is 1025."),
        ("mmlu", "B", "The answer is (B).", "A) of course"),
        ("nq_open", '["Paris", "city of light"]', "It is the City of Light.", "Rome"),
        ("sequence", "seven", "five, six, seven", "five, seven, six"),
        ("exact", "the Eiffel Tower", "Eiffel tower.", "The Eiffel Tower in Paris"),
        ("json", "any", '```json\n{"a": 1}\n```', "{a: 1}"),
    ],
)
def test_an_answer_is_scored_by_the_rule_of_its_task(task, reference, right, wrong):
    scorer = judge(("Question?", task, reference))
    better = scorer.compare(chat(" Question?\n"), right, wrong)
    assert (better.result, better.quality, better.l0_quality) == ("better", 1.0, 0.0)
    worse = scorer.compare(chat("Question?"), wrong, right)
    assert (worse.result, worse.quality, worse.l0_quality) == ("worse", 0.0, 1.0)
    # Two wrong answers are a tie that says nothing good about either.
    both = scorer.compare(chat("Question?"), wrong, wrong)
    assert (both.result, both.quality, both.l0_quality) == ("tie", 0.0, 0.0)


def test_an_answer_may_be_right_in_part():
    scorer = judge(("Question?", "token_f1", '["a red house", "blue"]'))
    opinion = scorer.compare(chat("Question?"), "The house is red", "The sea")
    # Two of the answer's three words are the reference's two.
    assert (opinion.quality, opinion.l0_quality) == (pytest.approx(0.8), 0.0)
    assert opinion.result == "better"


def test_a_prompt_without_a_reference_is_not_judged():
    assert judge(("Question?", "gsm8k", "1")).compare(chat("Another?"), "1", "2") is None
    assert judge().compare([], "1", "2") is None


def test_ten_answers_with_one_that_is_worse_keep_nine_tenths():
    opinions = [compared("tie")] * 9 + [compared("worse")]
    assert sum(o.quality for o in opinions) / sum(o.l0_quality for o in opinions) == 0.9


def test_references_are_read_from_json_lines(tmp_path):
    path = tmp_path / "references.jsonl"
    rows = [{"prompt": "2 + 2?", "task": "gsm8k", "reference": "4", "extra": 1}]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    opinion = ReferenceJudge(read_references(path)).compare(chat("2 + 2?"), "4", "5")
    assert opinion.result == "better"


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"prompt": "a", "task": "b"}', '{"prompt": 1, "task": "b", "reference": "c"}'],
)
def test_a_wrong_line_of_references_is_named(tmp_path, line):
    path = tmp_path / "references.jsonl"
    path.write_text('{"prompt": "a", "task": "b", "reference": "c"}\n' + line)
    with pytest.raises(DataError, match=r"references\.jsonl, line 2"):
        read_references(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_references(tmp_path / "absent")


def test_the_text_of_a_message_in_parts_is_that_of_its_parts():
    assert text_of({"content": [{"type": "text", "text": "a"}, {"type": "image"}, "x"]}) == "a\n"
    assert text_of({"content": None}) == ""
