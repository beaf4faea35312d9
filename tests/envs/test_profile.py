import numpy as np
import pyarrow.parquet as pq
import pytest

from envs.errors import DataError
from envs.profile import read_profile, write_profile
from envs.workload import generate
from tests import made


@pytest.fixture
def good():
    return made.rows(generate(4, seed=0), lambda r, d: 1.0)


def test_a_profile_survives_its_file(tmp_path, good):
    write_profile(tmp_path / "p.parquet", good)
    profile = read_profile(tmp_path / "p.parquet")
    assert profile.directives == ("none", "brief", "very_brief")
    assert len(profile.requests) == 16
    assert profile.completion_tokens[0].tolist() == [50, 10, 2]
    assert np.isnan(profile.preference).all()
    assert [r.request_id for r in profile.requests] == [r["request_id"] for r in good[::3]]


def drop(rows, name):
    return [{k: v for k, v in row.items() if k != name} for row in rows]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[:-1], r"lacks directive 'very_brief'"),
        (lambda rows: [*rows, rows[0]], "twice"),
        (lambda rows: [rows[0] | {"energy_joules": -1.0}, *rows[1:]], "row 0 energy_joules"),
        (lambda rows: [rows[0] | {"latency_seconds": float("nan")}, *rows[1:]], "row 0 latency"),
        (lambda rows: [rows[0] | {"correct": 2.0}, *rows[1:]], "row 0 correct"),
        (lambda rows: [], "holds no rows"),
    ],
)
def test_a_bad_profile_is_named(tmp_path, good, change, said):
    path = tmp_path / "p.parquet"
    write_profile(path, change(good))
    with pytest.raises(DataError, match=said) as error:
        read_profile(path)
    assert str(path) in str(error.value)


def test_a_missing_column_is_named(tmp_path, good):
    path = tmp_path / "p.parquet"
    write_profile(path, good)
    pq.write_table(pq.read_table(path).drop_columns(["energy_joules"]), path)
    with pytest.raises(DataError, match="'energy_joules' is missing"):
        read_profile(path)


def test_a_truncated_file_is_named(tmp_path, good):
    path = tmp_path / "p.parquet"
    write_profile(path, good)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="no readable Parquet"):
        read_profile(path)


def test_an_unexpected_directive_is_named(tmp_path, good):
    write_profile(tmp_path / "p.parquet", good)
    with pytest.raises(DataError, match="brief"):
        read_profile(tmp_path / "p.parquet", directives=("none", "short"))


def test_the_published_outcomes_are_read(shared_data):
    path = shared_data / "llama2_outcomes.parquet"
    with pytest.raises(DataError, match="model None"):
        read_profile(path)
