import numpy as np
import pytest

from envs.carbon_reader import read_trace, read_traces, synthetic_day
from envs.errors import DataError

HEADER = "timestamp_utc,zone,carbon_intensity_g_per_kwh\n"


def write(path, hours):
    path.write_text(HEADER + "".join(f"2024-01-01T{h:02d}:00:00Z,X,{g}\n" for h, g in hours))
    return path


def test_an_intensity_holds_for_its_hour(tmp_path):
    trace = read_trace(write(tmp_path / "t.csv", [(0, 100), (1, 200), (2, 150)]))
    times = trace.start + np.array([0.0, 3599.0, 3600.0, 7300.0])
    assert trace.at(times).tolist() == [100, 100, 200, 150]
    assert trace.recent_place(times).tolist() == [0.5, 0.5, 1.0, 0.5]


def test_place_looks_back_only(tmp_path):
    hours = [(h, 100 + h) for h in range(10)]
    before = read_trace(write(tmp_path / "a.csv", hours))
    after = read_trace(write(tmp_path / "b.csv", [*hours, (10, 5000)]))
    times = before.start + 3600.0 * np.arange(10)
    assert np.array_equal(before.recent_place(times), after.recent_place(times))


@pytest.mark.parametrize(
    ("hours", "said"),
    [
        ([(0, 1), (2, 1)], "2024-01-01T01:00Z is missing"),
        ([(0, 1), (0, 1)], "twice"),
        ([(1, 1), (0, 1)], "out of order"),
        ([(0, -1)], "row 2 carbon_intensity_g_per_kwh '-1'"),
        ([(0, "nan")], "row 2 carbon_intensity_g_per_kwh 'nan'"),
        ([(0, "")], "row 2"),
    ],
)
def test_a_bad_trace_is_named(tmp_path, hours, said):
    path = write(tmp_path / "t.csv", hours)
    with pytest.raises(DataError) as error:
        read_trace(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_local_times_are_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(HEADER + "2024-01-01T00:00:00+02:00,X,1\n")
    with pytest.raises(DataError, match="not UTC"):
        read_trace(path)


def test_other_columns_are_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("when,what\n1,2\n")
    with pytest.raises(DataError, match="timestamp_utc"):
        read_trace(path)


def test_a_time_outside_the_trace_is_refused_but_a_reading_ages():
    trace = synthetic_day()
    with pytest.raises(DataError, match="it covers"):
        trace.at(np.array([trace.end]))
    late = trace.reading(trace.end + 7200)
    assert late.age_seconds == 7200
    assert late.g_per_kwh == trace.g_per_kwh[-1]
    assert trace.reading(trace.start + 5).age_seconds == 0


def test_electricity_maps_exports_are_read(shared_data):
    traces = read_traces([shared_data / "carbon_intensity"])
    assert len(traces) == 5
    assert all(len(trace.g_per_kwh) == 8760 for trace in traces.values())
    with pytest.raises(DataError, match="several zones"):
        read_trace(shared_data / "carbon_intensity")
    assert read_trace(shared_data / "carbon_intensity", "GB").g_per_kwh[0] == 71.54
