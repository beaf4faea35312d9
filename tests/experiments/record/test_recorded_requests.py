import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from envs.errors import ConfigError, DataError
from experiments.record.recorded_requests import read_requests

CHAT = [{"role": "user", "content": "Hi"}]
TURNS = [
    {"role": "system", "content": "Be kind."},
    *CHAT,
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "Nothing."},
]


def test_recorded_requests_are_read_once_each_and_a_wrong_row_is_named_in_the_error(tmp_path):
    path = tmp_path / "asked.parquet"
    same_chat = [{"role": "user", "content": "Hi"}]
    rows = [{"prompt": "Hi", "messages": None}, {"messages": json.dumps(same_chat), "prompt": None}]
    pq.write_table(pa.Table.from_pylist([*rows, {"prompt": "Ho", "messages": None}]), path)
    assert [r.messages[0]["content"] for r in read_requests(path)] == ["Hi", "Ho"]
    assert read_requests(path)[0].task == "untagged"
    pq.write_table(pa.Table.from_pylist([*rows, {"messages": "[]", "prompt": None}]), path)
    with pytest.raises(DataError, match="row 2 messages is not a chat"):
        read_requests(path)
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(DataError, match="row 0 holds no chat; its columns are x"):
        read_requests(path)
    path.write_text("no Parquet")
    with pytest.raises(DataError, match="no readable Parquet"):
        read_requests(path)


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TURNS},
        {"custom_id": "1", "method": "POST", "url": "/v1/chat", "body": {"messages": TURNS}},
        {
            "conversations": [
                {"from": "system", "value": "Be kind."},
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Hello."},
                {"from": "human", "value": "And?"},
                {"from": "gpt", "value": "Nothing."},
            ]
        },
    ],
    ids=["fine-tuning", "batch", "ShareGPT"],
)
def test_chats_of_common_files_are_played_up_to_their_last_question(tmp_path, row):
    for name, text in (("a.jsonl", lines(row) + "\n"), ("a.json", json.dumps([row]))):
        (tmp_path / name).write_text(text)
        (request,) = read_requests(tmp_path / name)
        assert list(request.messages) == TURNS[:-1]


def test_a_batch_of_the_responses_api_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(lines({"custom_id": "1", "body": {"model": "m", "input": "Hi"}}))
    assert list(read_requests(path)[0].messages) == CHAT


def test_a_csv_of_questions_and_answers_is_read(tmp_path):
    path = tmp_path / "faq.csv"
    path.write_text('question,answer,task\n"What is 1, and 2?",3,sums\nWhy?,,\n')
    first, second = read_requests(path)
    assert (first.messages[0]["content"], first.reference, first.task) == (
        "What is 1, and 2?",
        "3",
        "sums",
    )
    assert (second.reference, second.task) == (None, "untagged")
    path.write_text("q,a,kind\nWhy?,So,x\n")
    (renamed,) = read_requests(path, "prompt=q,reference=a,task=kind")
    assert (renamed.reference, renamed.task) == ("So", "x")
    with pytest.raises(DataError, match=r"column 'z' is missing; the columns are q, a, kind"):
        read_requests(path, "prompt=q,task=z")
    with pytest.raises(DataError, match=r"row 0 holds no chat; its columns are q, a"):
        read_requests(path)
    for rename in ("prompt", "text=q"):
        with pytest.raises(ConfigError, match="--rename"):
            read_requests(path, rename)


def test_each_field_has_one_source_and_no_text_is_lost(tmp_path):
    path = tmp_path / "a.jsonl"
    separated = "one\u2028two\u0085three"
    path.write_text(json.dumps({"prompt": separated}, ensure_ascii=False) + "\r\n")
    assert read_requests(path)[0].messages[0]["content"] == separated
    path.write_text(lines({"a": "A", "prompt": "B"}))
    assert read_requests(path, "prompt=a")[0].messages[0]["content"] == "A"
    path.write_text(lines({"question": "A", "prompt": "B"}))
    assert read_requests(path)[0].messages[0]["content"] == "B"
    path.write_text(
        lines({"instruction": "Sum up.", "input": "x"}, {"instruction": "Sum up.", "input": "y"})
    )
    assert [r.messages[0]["content"] for r in read_requests(path)] == [
        "Sum up.\n\nx",
        "Sum up.\n\ny",
    ]
    path.write_text(lines({"question": "A", "instruction": "B"}))
    with pytest.raises(DataError, match="row 0 has two columns for prompt"):
        read_requests(path)


def test_messages_of_parquet_may_be_lists(tmp_path):
    path = tmp_path / "a.parquet"
    with_name = [{"role": "user", "content": "Hi", "name": None}]
    pq.write_table(pa.table({"messages": [TURNS, with_name]}), path)
    assert [list(r.messages) for r in read_requests(path)] == [TURNS[:-1], CHAT]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no rows"),
        ("{", "row 0 is no JSON"),
        (lines({"messages": CHAT}, 3), "row 1 is no JSON object"),
        (lines({"messages": CHAT}, {"messages": TURNS[:1]}), "row 1 has no user message"),
        (
            lines({"conversations": [{"from": "tool", "value": "x"}]}),
            "row 0 has a message from 'tool'",
        ),
        (lines({"text": "Hi"}), "row 0 holds no chat; its columns are text"),
        (lines({"prompt": "Hi"}, {"prompt": ""}), "row 1 holds no chat"),
        (lines({"prompt": 3}), "row 0 prompt is no text"),
    ],
)
def test_a_wrong_row_is_named_with_what_would_be_right(tmp_path, text, message):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_requests(path)
    assert str(path) in str(error.value)
