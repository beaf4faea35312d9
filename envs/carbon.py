"""Carbon intensity: readings and hourly traces from CSV."""

import csv
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from envs.errors import DataError

HOUR_SECONDS = 3600.0
# The recent range in which an intensity is placed: trailing, so that live code can have it.
RECENT_HOURS = 24
PLAIN = ("timestamp_utc", "zone", "carbon_intensity_g_per_kwh")
ELECTRICITY_MAPS_TIME = "Datetime (UTC)"
ELECTRICITY_MAPS_VALUE = "Carbon Intensity gCO₂eq/kWh (direct)"
EVERY_HOUR = (
    "give every hour once, in order, in UTC (local time skips or repeats one when clocks change)"
)
REMEDY = f"give {','.join(PLAIN)} or an Electricity Maps hourly export"


@dataclass(frozen=True)
class CarbonReading:
    """Carbon intensity at a time and place, with what kind of figure it is.

    Attributes:
        g_per_kwh: gCO2e per kWh.
        time: start of the hour it holds for, Unix seconds UTC.
        age_seconds: 0 within that hour; else how long ago it ended.
        zone: the grid's name.
        signal: "average" or "marginal".
        scope: "direct" or "lifecycle".
        method: "measured", "estimated", "forecast", or "unstated" by its source.
        source: who says so.
    """

    g_per_kwh: float
    time: float
    age_seconds: float
    zone: str
    signal: str
    scope: str
    method: str
    source: str


@dataclass(frozen=True)
class IntensityTrace:
    """Hourly carbon intensity of one zone.

    Attributes:
        start: Unix seconds UTC of the first hour.
        g_per_kwh: shape (hours,), gCO2e/kWh.
        methods: shape (hours,), "measured" or "estimated" where the source says which,
            else "unstated".
    """

    zone: str
    start: float
    g_per_kwh: NDArray[np.float64]
    methods: NDArray[np.str_]
    source: str
    signal: str = "average"
    scope: str = "direct"

    @property
    def end(self) -> float:
        """Unix seconds at which the last hour ends."""
        return self.start + HOUR_SECONDS * len(self.g_per_kwh)

    @property
    def sha256(self) -> str:
        """Digest of its hours' intensities."""
        return hashlib.sha256(np.ascontiguousarray(self.g_per_kwh).tobytes()).hexdigest()

    def hour(self, times: NDArray[np.float64]) -> NDArray[np.int64]:
        """Row of each time (Unix seconds).

        Raises:
            DataError: a time lies outside the trace.
        """
        rows = np.floor((np.asarray(times) - self.start) / HOUR_SECONDS).astype(np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self.g_per_kwh)):
            asked = float(np.min(times)) if rows.min() < 0 else float(np.max(times))
            raise DataError(
                self.source,
                f"no intensity for {iso(asked)}: it covers {iso(self.start)} to {iso(self.end)}",
                "start the clock within the trace or give a longer one",
            )
        return rows

    def window_times(self, start_hour: int, hours: int) -> NDArray[np.float64]:
        """Unix seconds at which each hour of a window begins, shape (hours,).

        Args:
            start_hour: hours from the trace's start.

        Raises:
            DataError: the trace does not cover the window.
        """
        have = len(self.g_per_kwh)
        if start_hour < 0 or hours < 1 or start_hour + hours > have:
            raise DataError(
                self.source,
                f"zone {self.zone}: hours {start_hour} to {start_hour + hours} asked for, but the "
                f"trace has {have}, from {iso(self.start)} to {iso(self.end)}",
                "give a window within it or a longer trace",
            )
        return self.start + HOUR_SECONDS * np.arange(
            start_hour, start_hour + hours, dtype=np.float64
        )

    def at(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Intensity at each time (Unix seconds), gCO2e/kWh."""
        return self.g_per_kwh[self.hour(times)]

    def recent_place(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where each time's intensity lies in the trailing day's range: 0 lowest, 1 highest.

        0.5 where the range is empty, as in a trace's first hour.
        """
        return self._places[self.hour(times)]

    @cached_property
    def _places(self) -> NDArray[np.float64]:
        padded = np.concatenate([np.full(RECENT_HOURS - 1, np.nan), self.g_per_kwh])
        windows = np.lib.stride_tricks.sliding_window_view(padded, RECENT_HOURS)
        low, high = np.nanmin(windows, axis=1), np.nanmax(windows, axis=1)
        span = np.where(high > low, high - low, 1.0)
        return np.where(high > low, (self.g_per_kwh - low) / span, 0.5)

    def reading(self, now: float) -> CarbonReading:
        """The reading for `now`, or the last one before it with its age; never raises."""
        row = int((now - self.start) // HOUR_SECONDS)
        row = min(max(row, 0), len(self.g_per_kwh) - 1)
        begun = self.start + HOUR_SECONDS * row
        return CarbonReading(
            g_per_kwh=float(self.g_per_kwh[row]),
            time=begun,
            age_seconds=max(0.0, now - begun - HOUR_SECONDS),
            zone=self.zone,
            signal=self.signal,
            scope=self.scope,
            method=str(self.methods[row]),
            source=self.source,
        )


def iso(seconds: float) -> str:
    """Unix seconds as ISO 8601 UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%MZ")


def joined(traces: Sequence[IntensityTrace]) -> IntensityTrace:
    """Traces of whole days one after another, so that training sees the hours of all of them.

    Times go on from the first trace's start; hours of day are kept.

    Raises:
        DataError: a trace before the last has no whole number of days, or begins at another
            hour of the day.
    """
    first = traces[0]
    for trace in traces[:-1]:
        if len(trace.g_per_kwh) % 24:
            found = f"zone {trace.zone} has {len(trace.g_per_kwh)} hours"
            raise DataError(trace.source, found, "give whole days to join zones, or name a --zone")
    for trace in traces[1:]:
        if (trace.start - first.start) % (24 * HOUR_SECONDS):
            found = f"zone {trace.zone} begins at {iso(trace.start)}, {first.zone} at "
            found += iso(first.start)
            raise DataError(trace.source, found, "begin zones at the same hour to join them")
    return replace(
        first,
        zone="+".join(trace.zone for trace in traces),
        g_per_kwh=np.concatenate([trace.g_per_kwh for trace in traces]),
        methods=np.concatenate([trace.methods for trace in traces]),
        source=", ".join(dict.fromkeys(trace.source for trace in traces)),
    )


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
    traces = read_traces([path])
    if zone is None and len(traces) == 1:
        return next(iter(traces.values()))
    if zone is None or zone not in traces:
        named = f"no zone {zone!r}" if zone else "several zones"
        raise DataError(path, named, f"name one of {', '.join(sorted(traces))} with --zone")
    return traces[zone]


def chosen_trace(paths: Sequence[Path], zone: str | None) -> IntensityTrace:
    """One zone's trace, or those of all zones joined; no path means the synthetic day.

    Raises:
        DataError: a file is wrong, the zone is not there, or the zones cannot be joined.
    """
    return joined(chosen_zones(paths, zone)) if paths else synthetic_day()


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
        raise DataError(given, f"no zone {zone!r}", f"name one of {', '.join(sorted(traces))}")
    return [traces[zone]]


def read_traces(paths: Iterable[Path]) -> dict[str, IntensityTrace]:
    """Traces by zone, from CSV files in either format or folders of them.

    Raises:
        DataError: naming file, row and field: missing columns, times out of order,
            twice or missing, values that are not numbers or negative.
    """
    rows: dict[str, list[tuple[float, float, str, Path]]] = {}
    for path in paths:
        found = sorted(path.glob("*.csv")) if path.is_dir() else [path]
        if not found:
            raise DataError(path, "holds no CSV", REMEDY)
        for file in found:
            read = list(_rows(file))
            if not read:
                raise DataError(file, "holds no hours", REMEDY)
            for zone, *row in read:
                rows.setdefault(str(zone), []).append((*row, file))  # type: ignore[arg-type]
    return {zone: _trace(zone, hours) for zone, hours in rows.items()}


def _rows(path: Path) -> Iterable[tuple[str, float, float, str]]:
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
                method = {"true": "estimated", "false": "measured"}.get(flag, "unstated")
                yield (
                    row[zone],
                    _time(path, number, time, row[time]),
                    _value(path, number, value, row[value]),
                    method,
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
    return value


def _trace(zone: str, hours: list[tuple[float, float, str, Path]]) -> IntensityTrace:
    for (before, _, _, _), (after, _, _, path) in itertools.pairwise(hours):
        if after == before + HOUR_SECONDS:
            continue
        where = f"zone {zone}: {iso(after)} follows {iso(before)}"
        if after > before:
            missing = iso(before + HOUR_SECONDS)
            raise DataError(path, f"{where}: hour {missing} is missing", EVERY_HOUR)
        kind = "twice" if after == before else "out of order"
        raise DataError(path, f"{where}: {kind}", EVERY_HOUR)
    return IntensityTrace(
        zone=zone,
        start=hours[0][0],
        g_per_kwh=np.array([value for _, value, _, _ in hours]),
        methods=np.array([method for _, _, method, _ in hours]),
        source=str(hours[0][3]),
    )
