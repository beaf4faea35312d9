import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.errors import DataError
from envs.requests.mix import fixed_mix, mix_from_job_counts, read_job_counts, read_mix, uniform_mix

TASKS = ("a", "b", "c")


@given(st.integers(0, 2**32 - 1), st.integers(1, 200))
def test_random_mixes_are_shares_and_repeat_by_seed(seed, hours):
    counts = np.arange(1.0, 100.0)
    mix = mix_from_job_counts(counts, TASKS, hours, seed)
    assert mix.shares.shape == (hours, 3)
    assert np.allclose(mix.shares.sum(axis=1), 1)
    assert mix.shares.min() > 0
    repeated = mix_from_job_counts(counts, TASKS, hours, seed)
    assert np.array_equal(mix.shares, repeated.shares)


def test_random_shares_change_about_once_a_day():
    mix = mix_from_job_counts(np.arange(1.0, 1000.0) ** 2, TASKS, 24 * 400, seed=0)
    changes = np.flatnonzero((np.diff(mix.shares, axis=0) != 0).any(axis=1))
    lengths = np.diff(changes)
    assert 23 < lengths.mean() < 25
    assert 4 < lengths.std() < 5.6


def test_uniform_and_fixed_mixes_hold_at_every_hour():
    assert uniform_mix(TASKS).at(np.array([0, 7])).tolist() == [[1 / 3] * 3] * 2
    assert fixed_mix({"a": 3, "b": 1}).at(np.array([5])).tolist() == [[0.75, 0.25]]
    with pytest.raises(ValueError, match="shares"):
        fixed_mix({"a": -1.0})


def test_a_mix_of_unknown_tasks_is_refused():
    with pytest.raises(DataError, match="'b' has no requests"):
        fixed_mix({"a": 1, "b": 1}).aligned(["a", "c"])
    assert fixed_mix({"a": 1, "b": 0}).aligned(["c", "a"]).shares.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hour,a,b\n0,.5,.4\n", "row 2 sums to 0.9"),
        ("hour,a,b\n0,.5,.5\n2,.5,.5\n", "row 3 hour is 2; give hour 1"),
        ("hour,a,b\n0,.5,x\n", "row 2 b is 'x'"),
        ("hour,a,b\n0,.5\n", "row 2 has 2 fields"),
        ("hour,a,a\n0,.5,.5\n", "column 'a' is given twice"),
        ("time,a\n0,1\n", "columns"),
        ("hour,a\n", "no rows"),
    ],
)
def test_a_fault_in_a_mix_is_named_with_its_file(tmp_path, text, message):
    path = tmp_path / "mix.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_mix(path)
    assert str(path) in str(error.value)


def test_the_published_mix_follows_the_job_counts(shared_data):
    mix = read_mix(shared_data / "sprout_task_mix.csv")
    counts = read_job_counts(shared_data / "pai_hourly_jobs.csv")
    assert mix.shares.shape == (720, 6)
    with (shared_data / "sprout_task_mix.csv").open() as stream:
        assert tuple(next(csv.reader(stream))[1:]) == mix.tasks
    changed = (np.diff(mix.shares, axis=0) != 0).any(axis=1)
    block = np.concatenate([[0], np.cumsum(changed)])
    starts = np.array([684, 559, 835, 763, 1033, 277])
    jobs = counts[(starts[None, :] + block[:, None]) % len(counts)]
    assert np.allclose(mix.shares, jobs / jobs.sum(axis=1, keepdims=True), atol=2e-6)
