import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from envs.errors import DataError
from envs.outcomes.profile import write_profile
from envs.outcomes.profile_reader import read_profile
from envs.requests.workload import generate_requests
from tests import made


@pytest.fixture
def good():
    return made.rows(generate_requests(4, seed=0), lambda r, d: 1.0)


def test_a_profile_written_to_a_file_is_read_back(tmp_path, good):
    write_profile(tmp_path / "p.parquet", good)
    profile = read_profile(tmp_path / "p.parquet")
    assert profile.directives == ("none", "brief", "very_brief")
    assert len(profile.requests) == 16
    assert profile.outcomes.completion_tokens[0].tolist() == [50, 10, 2]
    assert np.isnan(profile.outcomes.preference).all()
    assert [r.request_id for r in profile.requests] == [r["request_id"] for r in good[::3]]


def drop(rows, name):
    return [{k: v for k, v in row.items() if k != name} for row in rows]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], r"lacks directive 'very_brief'"),
        (lambda rows: [*rows, rows[0]], "twice"),
        (lambda rows: [rows[0] | {"energy_joules": -1.0}, *rows[1:]], "row 0 energy_joules"),
        (lambda rows: [rows[0] | {"latency_seconds": float("nan")}, *rows[1:]], "row 0 latency"),
        (lambda rows: [rows[0] | {"correct": 2.0}, *rows[1:]], "row 0 correct"),
        (lambda rows: [rows[0] | {"task": ""}, *rows[1:]], "row 0 task is empty"),
        (lambda rows: [rows[0], rows[1] | {"task": "other"}, *rows[2:]], "row 1.*another task"),
        (lambda rows: [rows[0], rows[1] | {"messages": "[]"}, *rows[2:]], "row 1.*another prompt"),
        (lambda rows: [rows[0] | {"latency_seconds": -0.1}, *rows[1:]], "row 0 latency_seconds"),
        (
            lambda rows: [rows[0] | {"energy_joules": float("nan")}, *rows[1:]],
            "energy_joules is nan",
        ),
        (lambda rows: [row for row in rows if row["directive"] != "none"], "directive 'none'"),
        (lambda rows: [row | {"messages": "[]"} for row in rows], "row 0 messages is not a chat"),
        (
            lambda rows: [row | {"messages": '[{"role": "user", "content": 5}]'} for row in rows],
            "row 0 messages is not a chat",
        ),
        (lambda rows: [], "holds no rows"),
    ],
)
def test_a_fault_in_a_profile_is_named_with_its_file(tmp_path, good, change, message):
    path = tmp_path / "p.parquet"
    write_profile(path, change(good))
    with pytest.raises(DataError, match=message) as error:
        read_profile(path)
    assert str(path) in str(error.value)


def test_a_missing_column_is_named(tmp_path, good):
    path = tmp_path / "p.parquet"
    write_profile(path, good)
    pq.write_table(pq.read_table(path).drop_columns(["energy_joules"]), path)
    with pytest.raises(DataError, match="'energy_joules' is missing"):
        read_profile(path)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [("energy_method", [1], "int64; it must be text"), ("difficulty", ["x"], "whole number")],
)
def test_an_optional_column_of_a_wrong_type_is_named(tmp_path, good, name, values, message):
    path = tmp_path / "p.parquet"
    write_profile(path, good)
    table = pq.read_table(path).drop_columns([name])
    pq.write_table(table.append_column(name, [values * len(good)]), path)
    with pytest.raises(DataError, match=f"column '{name}' is .*{message}"):
        read_profile(path)


def test_a_truncated_file_is_named(tmp_path, good):
    path = tmp_path / "p.parquet"
    write_profile(path, good)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_profile(path)


def test_an_unexpected_directive_is_named(tmp_path, good):
    write_profile(tmp_path / "p.parquet", good)
    with pytest.raises(DataError, match="brief"):
        read_profile(tmp_path / "p.parquet", directives=("none", "short"))


def test_the_only_model_played_under_several_directives_is_read(tmp_path, good):
    path = tmp_path / "p.parquet"
    other = [row | {"model": "small"} for row in good if row["directive"] == "none"]
    write_profile(path, [*other, *good])
    assert read_profile(path).model == "made"
    with pytest.raises(DataError, match="lacks directive 'brief'"):
        read_profile(path, model="small", directives=("none", "brief"))
    write_profile(path, [*good, *(row | {"model": "also"} for row in good)])
    with pytest.raises(DataError, match=r"holds models \['also', 'made'\]"):
        read_profile(path)
    with pytest.raises(DataError, match="no model 'large'"):
        read_profile(path, model="large")


def test_an_error_names_the_row_in_the_file(tmp_path, good):
    path = tmp_path / "p.parquet"
    other = [row | {"model": "small"} for row in good if row["directive"] == "none"]
    write_profile(path, [*other, *good, good[0]])
    with pytest.raises(DataError, match=f"row {len(other) + len(good)}: .* twice"):
        read_profile(path)


def test_a_split_depends_on_the_prompt_alone(tmp_path):
    requests = generate_requests(50, seed=0)
    profile = made.profile(tmp_path, requests, lambda r, d: 1.0)
    training, hold_out = profile.split(0.3, "hold-out")
    assert 0.2 < len(hold_out.requests) / len(requests) < 0.4
    assert not {r.prompt_hash for r in training.requests} & {
        r.prompt_hash for r in hold_out.requests
    }
    half_hold_out = profile.select(np.arange(0, len(requests), 2)).split(0.3, "hold-out")[1]
    assert {r.request_id for r in half_hold_out.requests} <= {
        r.request_id for r in hold_out.requests
    }
    assert [len(part.requests) for part in profile.split(0.0, "x")] == [len(requests), 0]


def test_the_published_outcomes_are_read(shared_data):
    profile = read_profile(shared_data / "llama2_outcomes.parquet")
    assert profile.model == "llama-2-13b-chat"
    assert len(profile.requests) == 8411
    assert set(profile.directives) == {"none", "brief", "very_brief"}
    assert profile.outcomes.energy_method == "unlabelled"


def test_whole_numbers_that_another_tool_wrote_as_floats_are_read(tmp_path, good):
    path = tmp_path / "p.parquet"
    write_profile(path, good)
    table = pq.read_table(path)
    for value, expected in ((None, None), (float("nan"), None), (2.0, 2)):
        column = pa.array([value] * table.num_rows, pa.float64())
        index = table.schema.get_field_index("difficulty")
        pq.write_table(table.set_column(index, "difficulty", column), path)
        assert {request.difficulty for request in read_profile(path).requests} == {expected}
