import numpy as np
import pytest

from envs.carbon.csv_traces import synthetic_day
from envs.carbon.intensity import IntensityTrace
from envs.errors import DataError


def trace_of(levels):
    levels = np.array(levels, dtype=float)
    return IntensityTrace("X", 0.0, levels, np.full(len(levels), "measured"), "made")


def test_an_intensity_holds_for_its_hour():
    trace = trace_of([100, 200, 150])
    times = trace.start + np.array([0.0, 3599.0, 3600.0, 7300.0])
    assert trace.at(times).tolist() == [100, 100, 200, 150]
    assert trace.recent_place(times).tolist() == [0.5, 0.5, 1.0, 0.5]


def test_the_recent_place_depends_on_earlier_hours_only():
    hours = [100 + h for h in range(10)]
    before = trace_of(hours)
    after = trace_of([*hours, 5000])
    times = before.start + 3600.0 * np.arange(10)
    assert np.array_equal(before.recent_place(times), after.recent_place(times))


def test_a_time_outside_the_trace_is_refused_but_a_reading_ages():
    trace = synthetic_day()
    with pytest.raises(DataError, match="the trace covers"):
        trace.at(np.array([trace.end]))
    late = trace.reading(trace.end + 7200)
    assert late.age_seconds == 7200
    assert late.g_per_kwh == trace.g_per_kwh[-1]
    assert trace.reading(trace.start + 5).age_seconds == 0
