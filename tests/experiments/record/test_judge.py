"""`sprout judge` fills a profile's preference with a judge's picks."""

import json

import pyarrow.parquet as pq
import pytest

from envs.errors import ConfigError, DataError
from envs.outcomes.profile import write_profile
from envs.outcomes.profile_reader import read_profile
from experiments.cli import main
from experiments.record.judge import JudgeCommand
from tests import made
from tests.serving.quality.judges.test_llm_judge import Server
from tests.serving.upstream import served

TEXTS = {"none": "a long answer", "brief": "an answer", "very_brief": "no"}


@pytest.fixture
def profile(tmp_path):
    requests = made.chats(6, {"faq": "Question {n}?", "legal": "Is {n} legal?"})
    rows = made.rows(requests, lambda request, name: 1.0)
    for row in rows:
        row["response"] = TEXTS[row["directive"]]
    write_profile(tmp_path / "profile.parquet", rows)
    return tmp_path / "profile.parquet"


@pytest.fixture
def judge():
    server = Server()
    # The judge finds long answers best, and has no verdict on one of the questions.
    server.verdict = lambda parts: (
        "Verdict: "
        + (
            "?"
            if "Question 0?" in parts["request"]
            else next(n.removeprefix("answer ") for n, text in parts.items() if "long" in text)
        )
    )
    with served(server, lifespan="off") as server.url:
        yield server


def flags(profile, judge, out):
    return [
        "--outcomes",
        str(profile),
        "--judge",
        judge.url,
        "--judge-model",
        "j",
        "--out",
        str(out),
    ]


def test_the_answer_that_the_judge_picks_is_preferred(profile, judge, tmp_path, capsys):
    out = tmp_path / "judged" / "profile.parquet"
    assert main(["judge", *flags(profile, judge, out)]) == 0
    judged = read_profile(out)
    known = judged.outcomes.preference[
        ~(judged.outcomes.preference != judged.outcomes.preference).any(axis=1)
    ]
    assert known.tolist() == [[1.0, 0.0, 0.0]] * len(known)
    unknown = sum("Question 0?" in json.dumps(r.messages) for r in judged.requests)
    assert len(known) == 12 - unknown
    before, after = (pq.read_table(path).drop_columns("preference") for path in (profile, out))
    assert before.equals(after)
    shown = capsys.readouterr().out
    assert "legal: best answer: none 100.0 %, brief 0.0 %, very_brief 0.0 %" in shown
    assert f"{unknown} without a verdict" in shown


def test_a_judge_that_answers_nothing_writes_nothing(profile, judge, tmp_path):
    judge.verdict = lambda parts: "I cannot."
    command = JudgeCommand(
        outcomes=profile, judge=judge.url, judge_model="j", out=tmp_path / "out.parquet"
    )
    with pytest.raises(ConfigError, match="no verdict on any request"):
        command.cli_cmd()
    assert not (tmp_path / "out.parquet").exists()


def test_a_profile_without_texts_and_a_finished_file_are_refused(profile, judge, tmp_path):
    rows = pq.read_table(profile).to_pylist()
    write_profile(tmp_path / "bare.parquet", [row | {"response": None} for row in rows])
    fields = {"judge": judge.url, "judge_model": "j"}
    with pytest.raises(DataError, match="no answers"):
        JudgeCommand(outcomes=tmp_path / "bare.parquet", out=tmp_path / "o", **fields).cli_cmd()
    with pytest.raises(ConfigError, match="exists"):
        JudgeCommand(outcomes=profile, out=profile, **fields).cli_cmd()
