"""Reads hourly traces of carbon intensity from CSV files and chooses among their zones."""

import csv
import itertools
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from envs.carbon.intensity import (
    HOUR_SECONDS,
    SCOPES,
    SIGNALS,
    IntensityTrace,
    Kind,
    iso,
    join_traces,
)
from envs.errors import DataError
from envs.plausible import check_intensity, check_mean_intensity

PLAIN = ("timestamp_utc", "zone", "carbon_intensity_g_per_kwh")
ELECTRICITY_MAPS_TIME = "Datetime (UTC)"
ELECTRICITY_MAPS_VALUE = "Carbon Intensity gCO₂eq/kWh (direct)"
EVERY_HOUR = (
    "give every hour once, in order, in UTC (local time skips or repeats one when clocks change)"
)
REMEDY = f"give {','.join(PLAIN)} or an Electricity Maps hourly export"


def synthetic_day() -> IntensityTrace:
    """The shipped, generated trace: made up, not a measurement of any grid."""
    path = Path(str(files("envs") / "data" / "synthetic_intensity.csv"))
    return read_traces([path])["SYNTHETIC"]


def read_trace(path: Path | None, zone: str | None = None) -> IntensityTrace:
    """One zone's trace from a file or folder of CSVs; None means the synthetic day.

    Raises:
        DataError: the file is wrong, or holds several zones and none was named.
    """
    if path is None:
        return synthetic_day()
    traces = chosen_zones([path], zone)
    if len(traces) > 1:
        names = ", ".join(sorted(trace.zone for trace in traces))
        raise DataError(path, "several zones", f"name one of {names} with --zone")
    return traces[0]


def chosen_trace(paths: Sequence[Path], zone: str | None) -> IntensityTrace:
    """One zone's trace, or those of all zones joined; no path means the synthetic day.

    Raises:
        DataError: a file is wrong, the zone is not there, or the zones cannot be joined.
    """
    return join_traces(chosen_zones(paths, zone)) if paths else synthetic_day()


def chosen_zones(paths: Sequence[Path], zone: str | None) -> list[IntensityTrace]:
    """One zone's trace, or each zone's by itself.

    Raises:
        DataError: a file is wrong, or the zone is not there.
    """
    traces = read_traces(paths)
    if zone is None:
        return list(traces.values())
    if zone not in traces:
        given = ", ".join(str(path) for path in paths)
        names = ", ".join(sorted(traces))
        raise DataError(given, f"no zone {zone!r}", f"name one of {names} with --zone")
    return [traces[zone]]


def read_traces(paths: Iterable[Path]) -> dict[str, IntensityTrace]:
    """Traces by zone, from CSV files in either format or folders of them.

    Raises:
        DataError: naming file, row and field: missing columns, times out of order,
            twice or missing, values that are not numbers or negative, unlike kinds.
        UnitError: a value that no grid has.
    """
    rows: dict[str, list[_Hour]] = {}
    for path in paths:
        found = sorted(path.glob("*.csv")) if path.is_dir() else [path]
        if not found:
            raise DataError(path, "holds no CSV", REMEDY)
        for file in found:
            read = list(_rows(file))
            if not read:
                raise DataError(file, "holds no hours", REMEDY)
            for zone, hour in read:
                rows.setdefault(zone, []).append(hour)
    return {zone: _trace(zone, hours) for zone, hours in rows.items()}


class _Hour(NamedTuple):
    time: float
    value: float
    method: str
    kind: Kind
    file: Path


def _rows(path: Path) -> Iterable[tuple[str, _Hour]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = set(reader.fieldnames or ())
            if set(PLAIN) <= columns:
                time, zone, value = PLAIN
            elif {ELECTRICITY_MAPS_TIME, "Zone Id", ELECTRICITY_MAPS_VALUE} <= columns:
                time, zone, value = ELECTRICITY_MAPS_TIME, "Zone Id", ELECTRICITY_MAPS_VALUE
            else:
                raise DataError(path, f"columns {sorted(columns)}", REMEDY)
            for number, row in enumerate(reader, 2):
                flag = (row.get("Data Estimated") or "").lower()
                yield (
                    row[zone],
                    _Hour(
                        _time(path, number, time, row[time]),
                        _value(path, number, value, row[value]),
                        {"true": "estimated", "false": "measured"}.get(flag, "unstated"),
                        _kind(path, number, row),
                        path,
                    ),
                )
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, f"cannot be read ({error})", REMEDY) from error


def _time(path: Path, number: int, field: str, text: str | None) -> float:
    try:
        moment = datetime.fromisoformat((text or "").strip())
    except ValueError as error:
        raise DataError(
            path, f"row {number} {field} {text!r} is no time", "give ISO 8601 in UTC"
        ) from error
    if moment.tzinfo is not None and moment.utcoffset() != UTC.utcoffset(None):
        raise DataError(path, f"row {number} {field} {text!r} is not UTC", "give UTC times")
    return moment.replace(tzinfo=UTC).timestamp()


def _value(path: Path, number: int, field: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise DataError(path, f"row {number} {field} {text!r}", "give gCO2e/kWh, 0 or more")
    check_intensity(value, f"{path}: row {number} {field}")
    return value


def _kind(path: Path, number: int, row: Mapping[str, str | None]) -> Kind:
    """What a row says of itself in columns `signal` and `scope`; without them average direct."""
    found = []
    for field, known in (("signal", SIGNALS), ("scope", SCOPES)):
        text = (row.get(field) or known[0]).strip()
        if text not in known:
            said = f"row {number} {field} {text!r}"
            raise DataError(path, said, f"give one of {', '.join(known)}")
        found.append(text)
    return Kind(*found)


def _trace(zone: str, hours: list[_Hour]) -> IntensityTrace:
    for former, latter in itertools.pairwise(hours):
        before, after, path = former.time, latter.time, latter.file
        if latter.kind != former.kind:
            found = f"zone {zone}: {iso(after)} is {latter.kind}, {iso(before)} {former.kind}"
            raise DataError(path, found, "give each kind a file of its own")
        if after == before + HOUR_SECONDS:
            continue
        where = f"zone {zone}: {iso(after)} follows {iso(before)}"
        if after > before:
            missing = iso(before + HOUR_SECONDS)
            raise DataError(path, f"{where}: hour {missing} is missing", EVERY_HOUR)
        wrong = "twice" if after == before else "out of order"
        raise DataError(path, f"{where}: {wrong}", EVERY_HOUR)
    source, kind = hours[0].file, hours[0].kind
    mean = sum(hour.value for hour in hours) / len(hours)
    check_mean_intensity(mean, f"{source}: zone {zone}")
    return IntensityTrace(
        zone=zone,
        start=hours[0].time,
        g_per_kwh=np.array([hour.value for hour in hours]),
        methods=np.array([hour.method for hour in hours]),
        source=str(source),
        signal=kind.signal,
        scope=kind.scope,
    )
