"""Read traces of carbon intensity from CSV files, hourly or finer, and select zones."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from envs.carbon.constant import ZONE, constant_trace, stated_intensity
from envs.carbon.intensity import (
    HOUR_SECONDS,
    SCOPES,
    SIGNALS,
    STEP_SECONDS,
    IntensityTrace,
    Kind,
    iso,
    join_traces,
)
from envs.csv_file import read_csv, read_number
from envs.errors import DataError
from envs.plausible import check_intensity, check_mean_intensity

PLAIN_COLUMNS = ("timestamp_utc", "zone", "carbon_intensity_g_per_kwh")
# In lower case: the exports of 2023 and those of 2024 on differ in it.
ELECTRICITY_MAPS_COLUMNS = (
    "datetime (utc)",
    "zone id",
    "carbon intensity gco₂eq/kwh (direct)",
)
EVERY_STEP = (
    "give every step once, in order, in UTC (local time skips or repeats hours when clocks change)"
)
REMEDY = f"give the columns {','.join(PLAIN_COLUMNS)}, or an export of Electricity Maps"


def synthetic_day() -> IntensityTrace:
    """Return the shipped synthetic trace, which is generated and measures no real grid."""
    path = Path(str(files("envs") / "data" / "synthetic_intensity.csv"))
    return read_traces([path])["SYNTHETIC"]


def read_trace(path: Path | None, zone: str | None = None) -> IntensityTrace:
    """Read one zone's trace.

    Args:
        path: CSV file or folder of CSV files; None means the synthetic day.
        zone: zone to read; None if the files hold only one.

    Raises:
        DataError: a file is wrong, or the files hold several zones and none was named.
    """
    if path is None:
        return synthetic_day()
    traces = chosen_zones([path], zone)
    if len(traces) > 1:
        names = ", ".join(sorted(trace.zone for trace in traces))
        raise DataError(path, "holds several zones", f"name one of {names} as the zone (--zone)")
    return traces[0]


def chosen_trace(paths: Sequence[Path], zone: str | None) -> IntensityTrace:
    """Read one zone's trace, or the joined traces of all zones if `zone` is None.

    Args:
        paths: CSV files or folders of CSV files; empty means the synthetic day.
        zone: zone to read; None means all zones.

    Raises:
        DataError: a file is wrong, the zone is missing, or the zones cannot be joined.
    """
    return join_traces(chosen_zones(paths, zone)) if paths else synthetic_day()


def chosen_zones(paths: Sequence[Path], zone: str | None) -> list[IntensityTrace]:
    """Read the trace of one zone, or of each zone if `zone` is None.

    Raises:
        DataError: a file is wrong, or the zone is missing.
    """
    traces = read_traces(paths)
    if zone is None:
        return list(traces.values())
    if zone not in traces:
        sources = ", ".join(str(path) for path in paths)
        names = ", ".join(sorted(traces))
        raise DataError(
            sources, f"there is no zone {zone!r}", f"name one of {names} as the zone (--zone)"
        )
    return [traces[zone]]


def read_traces(paths: Iterable[Path]) -> dict[str, IntensityTrace]:
    """Read all traces, by zone.

    Args:
        paths: CSV files in either format, folders of such files, or a number of gCO2e/kWh.

    Raises:
        DataError: columns are missing; times are out of order, repeated or missing; values are
            negative or no numbers; or a zone mixes kinds of intensity. The message names the
            file, and the row and field if there is one.
        UnitError: no grid has such a value.
    """
    steps_by_zone: dict[str, list[_Step]] = {}
    traces = {}
    for path in paths:
        if (stated := stated_intensity(path)) is not None:
            traces[ZONE] = constant_trace(stated)
            continue
        csv_paths = sorted(path.glob("*.csv")) if path.is_dir() else [path]
        if not csv_paths:
            raise DataError(path, "holds no CSV files", REMEDY)
        for csv_path in csv_paths:
            rows = list(_rows(csv_path))
            if not rows:
                raise DataError(csv_path, "holds no hours", REMEDY)
            for zone, step in rows:
                steps_by_zone.setdefault(zone, []).append(step)
    return traces | {zone: _trace(zone, steps) for zone, steps in steps_by_zone.items()}


class _Step(NamedTuple):
    time: float
    value: float
    method: str
    kind: Kind
    file: Path


def _rows(path: Path) -> Iterable[tuple[str, _Step]]:
    """Yield the zone and the values of each row."""
    header, rows = read_csv(path, REMEDY)
    names = [name.strip().lower() for name in header]
    if set(PLAIN_COLUMNS) <= set(names):
        time, zone, value = PLAIN_COLUMNS
    elif set(ELECTRICITY_MAPS_COLUMNS) <= set(names):
        time, zone, value = ELECTRICITY_MAPS_COLUMNS
    else:
        raise DataError(path, f"the columns are {sorted(header)}", REMEDY)
    for number, cells in enumerate(rows, 2):
        row = dict(zip(names, cells, strict=True))
        flag = row.get("data estimated", "").lower()
        yield (
            row[zone],
            _Step(
                _time(path, number, time, row[time]),
                _value(path, number, value, row[value]),
                {"true": "estimated", "false": "measured"}.get(flag, "unstated"),
                _kind(path, number, row),
                path,
            ),
        )


def _time(path: Path, number: int, field: str, text: str) -> float:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise DataError(
            path, f"row {number} {field} {text!r} is not a time", "give ISO 8601 times in UTC"
        ) from error
    if moment.tzinfo is not None and moment.utcoffset() != UTC.utcoffset(None):
        raise DataError(path, f"row {number} {field} {text!r} is not UTC", "give UTC times")
    return moment.replace(tzinfo=UTC).timestamp()


def _value(path: Path, number: int, field: str, text: str) -> float:
    try:
        value = read_number(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise DataError(
            path,
            f"row {number} {field} {text!r} is not an intensity",
            "give a number of gCO2e/kWh, 0 or more",
        )
    check_intensity(value, f"{path}: row {number} {field}")
    return value


def _kind(path: Path, number: int, row: Mapping[str, str]) -> Kind:
    """Return the kind in a row's columns `signal` and `scope`; by default average direct."""
    values = []
    for field, allowed in (("signal", SIGNALS), ("scope", SCOPES)):
        text = (row.get(field) or allowed[0]).strip()
        if text not in allowed:
            problem = f"row {number} {field} {text!r} is unknown"
            raise DataError(path, problem, f"give one of {', '.join(allowed)}")
        values.append(text)
    return Kind(*values)


def _trace(zone: str, steps: list[_Step]) -> IntensityTrace:
    seconds = _step_seconds(zone, steps)
    for former, latter in itertools.pairwise(steps):
        before, after, path = former.time, latter.time, latter.file
        if latter.kind != former.kind:
            problem = f"zone {zone}: {iso(after)} is {latter.kind}, {iso(before)} {former.kind}"
            raise DataError(path, problem, "put each kind of intensity into its own file")
        if after == before + seconds:
            continue
        order = f"zone {zone}: {iso(after)} follows {iso(before)}"
        if after > before:
            missing = iso(before + seconds)
            raise DataError(path, f"{order}: {_name(seconds)} {missing} is missing", EVERY_STEP)
        problem = f"the {_name(seconds)} is given twice" if after == before else "out of order"
        raise DataError(path, f"{order}: {problem}", EVERY_STEP)
    source, kind = steps[0].file, steps[0].kind
    mean = sum(step.value for step in steps) / len(steps)
    check_mean_intensity(mean, f"{source}: zone {zone}")
    return IntensityTrace(
        zone=zone,
        start=steps[0].time,
        g_per_kwh=np.array([step.value for step in steps]),
        methods=np.array([step.method for step in steps]),
        source=str(source),
        signal=kind.signal,
        scope=kind.scope,
        step_seconds=seconds,
    )


def _step_seconds(zone: str, steps: list[_Step]) -> float:
    """Return the most frequent distance of two rows, s; an hour if there is only one row."""
    distances = Counter(b.time - a.time for a, b in itertools.pairwise(steps) if b.time > a.time)
    seconds = distances.most_common(1)[0][0] if distances else HOUR_SECONDS
    if seconds in STEP_SECONDS:
        return seconds
    if seconds > HOUR_SECONDS:
        # The check of the rows names the first hour that is missing.
        return HOUR_SECONDS
    allowed = ", ".join(f"{step / 60:g}" for step in STEP_SECONDS)
    raise DataError(
        steps[0].file,
        f"zone {zone}: the rows are {seconds / 60:g} minutes apart",
        f"give steps of {allowed} minutes",
    )


def _name(seconds: float) -> str:
    return "hour" if seconds == HOUR_SECONDS else "step"
