from pathlib import Path

import pytest

from envs.carbon.csv_traces import read_trace, read_traces
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
