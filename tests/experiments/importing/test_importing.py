import csv
import json

import numpy as np
import pytest

from envs.outcomes.profile_reader import read_profile
from envs.requests.workload import generate_requests
from experiments.cli import main
from tests import made
from tests.experiments import clone

LARGE, SMALL = "llama-2-13b-chat", "llama-2-7b-chat"
MEASURED = "prompt_sweeping/request_carbon/data"


@pytest.fixture
def repository(tmp_path):
    return clone.make(tmp_path / "clone")


def imported(repository, tmp_path, model=None):
    out = tmp_path / "profile.parquet"
    assert main(["import", "emnlp24-sprout", str(repository), "--out", str(out)]) == 0
    return read_profile(out, model)


def test_a_clone_is_imported_as_a_profile_of_each_model(repository, tmp_path):
    profile = imported(repository, tmp_path)
    assert profile.model == LARGE
    assert profile.directives == ("none", "brief", "very_brief")
    assert set(profile.tasks) == {"alpaca", "gsm8k", "mmlu", "nq_open", "triviaqa", "scienceqa"}
    assert len(profile.requests) == 6 * 8
    # Answers of 500, 100 or 20 tokens, plus n, at 6 J per token; the clone has the energy in kWh.
    assert profile.outcomes.energy_joules.min(axis=0) == pytest.approx([6 * 504, 6 * 104, 6 * 24])
    # Each prompt prefers exactly one directive: its number modulo 3.
    assert profile.outcomes.preference.sum(axis=1).tolist() == [1.0] * 48
    assert all(not any(m["role"] == "system" for m in r.messages) for r in profile.requests)
    small = imported(repository, tmp_path, SMALL)
    assert len(small.requests) == 48
    assert np.isnan(small.outcomes.preference).all()


def test_correctness_is_judged_by_rule_and_unknown_for_a_task_without_a_rule(repository, tmp_path):
    profile = imported(repository, tmp_path)
    for task in profile.tasks:
        scores = profile.outcomes.correct[profile.rows_of(task)].mean(axis=0)
        if task == "alpaca":
            assert np.isnan(scores).all()
        else:
            assert scores.tolist() == [1.0, 0.5, 0.0]


def test_missing_token_counts_are_derived_from_the_fitted_line_and_marked_as_derived(
    repository, tmp_path
):
    profile = imported(repository, tmp_path)
    assert profile.tokens_method == "counted/derived"
    # In this clone seconds are exactly linear in tokens, so the line gives the true counts.
    tokens = np.round(profile.outcomes.energy_joules / 6)
    assert np.array_equal(profile.outcomes.completion_tokens, tokens)


def test_prompts_without_measurement_or_answer_are_left_out_and_counted(
    repository, tmp_path, capsys
):
    answers = clone.QUALITY + "/mmlu/samples_2000_seed_0/mmlu_5000_brief_13b.json"
    clone.change(repository / answers, lambda entries: entries.pop())
    path = repository / MEASURED / "math_all_13b-chat.json"
    clone.change(path, lambda content: [content[k].pop() for k in ("energy", "time")])
    profile = imported(repository, tmp_path)
    assert len(profile.requests) == 46
    output = capsys.readouterr().out
    assert "1 mmlu: judged, but without an answer" in output
    assert "1 math: judged, but not measured" in output


SUMMARY = clone.QUALITY + "/quality_accessor/assessment_results/summary_2000.json"


@pytest.mark.parametrize(
    ("relative_path", "edit", "fragment"),
    [
        (f"{MEASURED}/math_all_13b-chat.json", lambda c: c.pop("energy"), "'energy' is missing"),
        (
            f"{MEASURED}/math_all_13b-chat.json",
            lambda c: c["time"].__setitem__(3, -1.0),
            "entry 3 time is -1.0",
        ),
        (
            f"{MEASURED}/math_all_13b-chat.json",
            lambda c: c["energy"].__setitem__(0, float("nan")),
            "entry 0 energy is nan",
        ),
        (
            f"{MEASURED}/math_all_13b-chat.json",
            lambda c: c["time"].pop(),
            "12 energy, 11 time",
        ),
        (
            "prompt_sweeping/prompts/prompt_math_all_brief.json",
            lambda c: c.reverse(),
            "has another prompt",
        ),
        (
            "prompt_sweeping/prompts/prompt_math_all.json",
            lambda c: c[2][0].pop("content"),
            "entry 2 is no chat",
        ),
        (
            clone.QUALITY + "/math/samples_2000_seed_0/math_all_13b.json",
            lambda c: c[1].update(output=None),
            "entry 1 output is None",
        ),
        (SUMMARY, lambda c: c["math"][1].update(assistance_lvl=3), "assistance_lvl 3"),
        (SUMMARY, lambda c: c.pop("mmlu"), "no data set 'mmlu'"),
    ],
)
def test_a_wrong_file_of_the_clone_is_named_in_the_error(
    repository, tmp_path, capsys, relative_path, edit, fragment
):
    clone.change(repository / relative_path, edit)
    out = tmp_path / "profile.parquet"
    assert main(["import", "emnlp24-sprout", str(repository), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert fragment in error
    assert str(repository / relative_path) in error


def test_a_failed_import_leaves_the_existing_profile_unchanged(repository, tmp_path):
    out = tmp_path / "profile.parquet"
    imported(repository, tmp_path)
    before = out.read_bytes()
    clone.change(
        repository / SUMMARY, lambda content: [entries.clear() for entries in content.values()]
    )
    assert main(["import", "emnlp24-sprout", str(repository), "--out", str(out)]) == 2
    assert out.read_bytes() == before


def test_an_answer_option_may_span_several_lines(repository, tmp_path, capsys):
    question = "Which is right?\nChoices:\n(A): Dear you,\nyours\n(B): Dear me,\nmine"
    for path in repository.rglob("*.json"):
        text = path.read_text()
        old_question = json.dumps(clone.KINDS["scienceqa"][0].format(n=11))
        path.write_text(text.replace(old_question, json.dumps(question)))
    answers = clone.QUALITY + "/scienceqa/samples_2000_seed_0/correct_answer.json"
    clone.change(repository / answers, lambda c: c[-1].update(output="Dear me,\nmine"))
    profile = imported(repository, tmp_path)
    request = next(r for r in profile.requests if r.messages[0]["content"] == question)
    assert json.loads(request.reference) == ["B", "Dear me,\nmine"]
    assert "correctness unknown" not in capsys.readouterr().out


def test_a_folder_that_is_no_clone_or_a_missing_file_is_named_in_the_error(
    repository, tmp_path, capsys
):
    out = str(tmp_path / "p.parquet")
    assert main(["import", "emnlp24-sprout", str(tmp_path), "--out", out]) == 2
    assert "no folder prompt_sweeping" in capsys.readouterr().err
    (repository / SUMMARY).unlink()
    assert main(["import", "emnlp24-sprout", str(repository), "--out", out]) == 2
    assert "summary_2000.json: is missing" in capsys.readouterr().err


@pytest.fixture
def table(tmp_path):
    rows = made.rows(generate_requests(2, seed=0), lambda r, d: 1.0)
    table_rows = [
        {
            "request_id": row["request_id"],
            "task": row["task"],
            "model": row["model"],
            "directive": row["directive"],
            "prompt": json.loads(row["messages"])[0]["content"],
            "prompt_tokens": row["prompt_tokens"],
            "completion_tokens": row["completion_tokens"],
            "Wh": row["energy_joules"] / 3600,
            "latency_seconds": 1000 * row["latency_seconds"],
            "correct": 1,
        }
        for row in rows
    ]
    path = tmp_path / "table.csv"
    write_csv(path, table_rows)
    return path, table_rows


def write_csv(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


FLAGS = ["--rename", "energy_joules=Wh", "--energy-unit", "Wh", "--latency-unit", "ms"]


def test_a_table_with_other_names_and_units_becomes_a_profile(table, tmp_path):
    path, rows = table
    out = tmp_path / "p.parquet"
    arguments = ["import", "csv", str(path), "--out", str(out), *FLAGS]
    assert main([*arguments, "--energy-method", "attributed"]) == 0
    profile = read_profile(out)
    assert len(profile.requests) == len(rows) / 3
    assert profile.outcomes.energy_method == "attributed"
    assert profile.outcomes.energy_joules[0] == pytest.approx([5.0, 1.0, 0.2])
    assert profile.outcomes.latency_seconds[0] == pytest.approx([0.5, 0.1, 0.02])
    assert profile.requests[0].messages == ({"role": "user", "content": rows[0]["prompt"]},)


@pytest.mark.parametrize(
    "rename", ["task=Wh", "energy_joules=Wh,latency_seconds=Wh", "energy_joules", "joules=Wh"]
)
def test_an_impossible_rename_is_refused(table, tmp_path, capsys, rename):
    path, _ = table
    out = tmp_path / "p.parquet"
    assert main(["import", "csv", "--rename", rename, str(path), "--out", str(out)]) == 2
    assert "--rename" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("edit", "fragment"),
    [
        (lambda rows: rows[4].update(Wh="much"), "row 4 energy_joules is 'much'"),
        (lambda rows: rows[4].update(latency_seconds="-1"), "row 4 latency_seconds is -0.001"),
        (lambda rows: rows[4].update(Wh=""), "row 4 energy_joules is nan"),
        (lambda rows: rows[4].update(prompt_tokens="1e12"), "row 4 prompt_tokens is '1e12'"),
        (lambda rows: rows[4].update(prompt_tokens="nan"), "row 4 prompt_tokens is 'nan'"),
        (
            lambda rows: rows[4].update(prompt_tokens="12.5"),
            "row 4 prompt_tokens is '12.5'; give a who",
        ),
        (lambda rows: rows[4].update(prompt_tokens="1_000"), "row 4 prompt_tokens is '1_000'"),
        (lambda rows: rows.pop(), "lacks directive 'very_brief'"),
        (lambda rows: [row.pop("completion_tokens") for row in rows], "'completion_tokens' is mis"),
        (lambda rows: [row.pop("Wh") for row in rows], "column 'Wh' is missing"),
        (
            lambda rows: [(row.pop("model"), row.pop("prompt_tokens")) for row in rows],
            "columns 'model', 'prompt_tokens' are missing; required are request_id",
        ),
    ],
)
def test_an_error_in_a_table_names_the_file_and_its_row_or_column(
    table, tmp_path, capsys, edit, fragment
):
    path, rows = table
    edit(rows)
    write_csv(path, rows)
    out = tmp_path / "p.parquet"
    assert main(["import", "csv", str(path), "--out", str(out), *FLAGS]) == 2
    error = capsys.readouterr().err
    assert fragment in error
    assert str(path) in error
    assert not out.exists()
