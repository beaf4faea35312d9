from pathlib import Path

import numpy as np
import pytest

from envs.carbon.csv_traces import read_trace, read_traces
from envs.carbon.intensity import join_traces
from envs.errors import DataError, UnitError

HEADER = "timestamp_utc,zone,carbon_intensity_g_per_kwh\n"


def write(path, hours):
    path.write_text(HEADER + "".join(f"2024-01-01T{h:02d}:00:00Z,X,{g}\n" for h, g in hours))
    return path


@pytest.mark.parametrize(
    ("hours", "message"),
    [
        ([(0, 1), (2, 1)], "2024-01-01T01:00Z is missing"),
        ([(0, 1), (0, 1)], "twice"),
        ([(1, 1), (0, 1)], "out of order"),
        ([(0, -1)], "row 2 carbon_intensity_g_per_kwh '-1'"),
        ([(0, "nan")], "row 2 carbon_intensity_g_per_kwh 'nan'"),
        ([(0, "")], "row 2"),
        ([(0, 1), (1, "1,050"), (2, 1)], "row 3 has 4 fields"),
        ([(0, 1), (1, "300,5"), (2, 1)], "without thousands separators"),
        ([(0, "1_050")], "'1_050' is not an intensity"),
    ],
)
def test_a_fault_in_a_trace_is_named_with_its_file(tmp_path, hours, message):
    path = write(tmp_path / "t.csv", hours)
    with pytest.raises(DataError) as error:
        read_trace(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_local_times_are_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(HEADER + "2024-01-01T00:00:00+02:00,X,1\n")
    with pytest.raises(DataError, match="not UTC"):
        read_trace(path)


def test_a_file_with_other_columns_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("when,what\n1,2\n")
    with pytest.raises(DataError, match="timestamp_utc"):
        read_trace(path)


def test_electricity_maps_exports_are_read(shared_data):
    traces = read_traces([shared_data / "carbon_intensity"])
    assert len(traces) == 5
    assert all(len(trace.g_per_kwh) == 8760 for trace in traces.values())
    with pytest.raises(DataError, match="several zones"):
        read_trace(shared_data / "carbon_intensity")
    assert read_trace(shared_data / "carbon_intensity", "GB").g_per_kwh[0] == 71.54


@pytest.mark.parametrize(
    ("head", "estimated"),
    [
        (
            "Datetime (UTC),Country,Zone Name,Zone Id,Carbon Intensity gCO₂eq/kWh (direct),"
            "Carbon Intensity gCO₂eq/kWh (LCA),Data Estimated",
            "True",
        ),
        (
            "Datetime (UTC),Country,Zone name,Zone id,Carbon intensity gCO₂eq/kWh (direct),"
            "Carbon intensity gCO₂eq/kWh (Life cycle),Data estimated",
            "true",
        ),
    ],
    ids=["2023", "2024 on"],
)
def test_exports_of_every_year_are_read(tmp_path, head, estimated):
    path = tmp_path / "export.csv"
    hours = [f"2024-01-01 {h:02d}:00:00,Germany,Germany,DE,{300 + h},{400 + h}" for h in range(24)]
    lines = [f"{hour},{estimated if h % 2 else 'false'}" for h, hour in enumerate(hours)]
    path.write_text("\n".join([head, *lines]), encoding="utf-8")
    trace = read_trace(path, "DE")
    assert trace.g_per_kwh.tolist() == [300 + h for h in range(24)]
    assert trace.methods[:2].tolist() == ["measured", "estimated"]


def test_a_constant_stands_in_for_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trace = read_trace(Path("300"))
    assert (set(trace.g_per_kwh), set(trace.methods), trace.zone) == ({300}, {"stated"}, "CONSTANT")
    with pytest.raises(UnitError, match="gCO2e/kWh"):
        read_trace(Path("3e6"))
    with pytest.raises(DataError, match="cannot be read"):
        read_trace(Path("300.csv"))


def test_a_trace_has_one_kind_which_its_columns_state(tmp_path):
    path = tmp_path / "grid.csv"
    head = "timestamp_utc,zone,carbon_intensity_g_per_kwh,signal,scope\n"
    first = "2024-01-01T00:00:00Z,DE,400,marginal,lifecycle\n"
    path.write_text(head + first + "2024-01-01T01:00:00Z,DE,300,marginal,lifecycle\n")
    trace = read_traces([path])["DE"]
    assert str(trace.kind) == "marginal lifecycle"
    assert trace.reading(trace.start).kind == trace.kind
    path.write_text(head + first + "2024-01-01T01:00:00Z,DE,300,,\n")
    with pytest.raises(DataError, match="is average direct, 2024-01-01T00:00Z marginal lifecycle"):
        read_traces([path])
    path.write_text(head + first.replace("marginal", "middling"))
    with pytest.raises(DataError, match="row 2 signal 'middling'"):
        read_traces([path])


def write_minutes(path, values):
    """Write a zone of pairs of minute and value."""
    rows = [f"2024-01-01T{m // 60:02d}:{m % 60:02d}Z,X,{g}" for m, g in values]
    path.write_text(HEADER + "\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("step", [5, 15, 30])
def test_steps_shorter_than_an_hour_keep_their_granularity(tmp_path, step):
    values = [(m, 100 + m) for m in range(0, 180, step)]
    trace = read_trace(write_minutes(tmp_path / "t.csv", values))
    assert (trace.hours, trace.steps_per_hour) == (3, 60 // step)
    assert trace.end - trace.start == 3 * 3600
    for minute, value in values:
        reading = trace.reading(trace.start + 60 * minute + 30)
        assert (reading.g_per_kwh, reading.age_seconds) == (value, 0)
        assert trace.at(np.array([trace.start + 60 * minute]))[0] == value
    assert trace.hour(np.array([trace.start + 3600.0 * 2 + 1800]))[0] == 2
    # The place among the trailing day's steps: every step is the highest so far.
    assert trace.recent_place(np.array([trace.start + 7200.0]))[0] == 1
    after = trace.reading(trace.end + 60)
    assert (after.step, after.age_seconds) == ("last_known", 60)


@pytest.mark.parametrize(
    ("minutes", "message"),
    [
        ([0, 7, 14], "the rows are 7 minutes apart; give steps of 5, 10, 15, 30, 60 minutes"),
        ([0, 15, 30, 60], "step 2024-01-01T00:45Z is missing"),
    ],
)
def test_a_fault_in_the_steps_is_named(tmp_path, minutes, message):
    path = write_minutes(tmp_path / "t.csv", [(m, 1) for m in minutes])
    with pytest.raises(DataError, match=message):
        read_trace(path)


def test_zones_of_different_steps_are_not_joined(tmp_path):
    day = [(15 * n, 1) for n in range(96)]
    quarters = read_trace(write_minutes(tmp_path / "q.csv", day))
    hours = read_trace(write(tmp_path / "h.csv", [(h, 1) for h in range(24)]))
    with pytest.raises(DataError, match=r"steps of 60 minutes, X of 15 minutes"):
        join_traces([quarters, hours])
