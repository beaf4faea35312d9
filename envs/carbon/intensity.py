"""Carbon intensity: readings, and hourly traces of a zone."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from envs.arrays import Float64Array, Int64Array, StrArray
from envs.errors import DataError

HOUR_SECONDS = 3600.0
# The recent range in which an intensity is placed: trailing, so that live code can have it.
RECENT_HOURS = 24
# The hours to come among which it is placed, where they are foretold.
COMING_HOURS = 24
UNKNOWN_PLACE = 0.5


# How a reading was come by, the best first; each next one where those before it fail.
Step = Literal["live", "forecast", "last_known", "yearly_mean"]
STEPS: tuple[Step, ...] = get_args(Step)
SIGNALS, SCOPES = ("average", "marginal"), ("direct", "lifecycle")


@dataclass(frozen=True)
class Kind:
    """What kind of figure an intensity is; figures of unlike kinds must not meet.

    Attributes:
        signal: "average" of all that is generated, or "marginal": of what one more kWh takes.
        scope: "direct" emissions of plants that run, or "lifecycle" with building them and fuel.
    """

    signal: str
    scope: str

    def __str__(self) -> str:
        return f"{self.signal} {self.scope}"


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
        method: "measured", "estimated", "forecast", "mean", or "unstated" by its source.
        source: who says so.
        step: how it was come by.
    """

    g_per_kwh: float
    time: float
    age_seconds: float
    zone: str
    signal: str
    scope: str
    method: str
    source: str
    step: Step = "live"

    @property
    def kind(self) -> Kind:
        """Average or marginal, direct or lifecycle."""
        return Kind(self.signal, self.scope)


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
    g_per_kwh: Float64Array
    methods: StrArray
    source: str
    signal: str = "average"
    scope: str = "direct"

    @property
    def end(self) -> float:
        """Unix seconds at which the last hour ends."""
        return self.start + HOUR_SECONDS * len(self.g_per_kwh)

    @property
    def kind(self) -> Kind:
        """Average or marginal, direct or lifecycle."""
        return Kind(self.signal, self.scope)

    @property
    def sha256(self) -> str:
        """Digest of its hours' intensities."""
        return hashlib.sha256(np.ascontiguousarray(self.g_per_kwh).tobytes()).hexdigest()

    def hour(self, times: Float64Array) -> Int64Array:
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

    def window_times(self, start_hour: int, hours: int) -> Float64Array:
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

    def at(self, times: Float64Array) -> Float64Array:
        """Intensity at each time (Unix seconds), gCO2e/kWh."""
        return self.g_per_kwh[self.hour(times)]

    def recent_place(self, times: Float64Array) -> Float64Array:
        """Where each time's intensity lies in the trailing day's range: 0 lowest, 1 highest.

        0.5 where the range is empty, as in a trace's first hour.
        """
        return self._places[self.hour(times)]

    @cached_property
    def _places(self) -> Float64Array:
        padded = np.concatenate([np.full(RECENT_HOURS - 1, np.nan), self.g_per_kwh])
        windows = np.lib.stride_tricks.sliding_window_view(padded, RECENT_HOURS)
        low, high = np.nanmin(windows, axis=1), np.nanmax(windows, axis=1)
        span = np.where(high > low, high - low, 1.0)
        return np.where(high > low, (self.g_per_kwh - low) / span, 0.5)

    def coming_place(self, times: Float64Array) -> Float64Array:
        """Share of the coming day's hours that are cleaner than each time's.

        The trace's own, as a perfect forecast would have it; `UNKNOWN_PLACE` in its last hour.
        """
        return self._coming[self.hour(times)]

    @cached_property
    def _coming(self) -> Float64Array:
        padded = np.concatenate([self.g_per_kwh, np.full(COMING_HOURS, np.nan)])
        windows = np.lib.stride_tricks.sliding_window_view(padded[1:], COMING_HOURS)
        known = (~np.isnan(windows)).sum(axis=1)
        cleaner = (windows < self.g_per_kwh[:, None]).sum(axis=1)
        return np.where(known > 0, cleaner / np.maximum(known, 1), UNKNOWN_PLACE)

    def reading(self, now: float, max_age_seconds: float = float("inf")) -> CarbonReading:
        """The reading for `now`; else the last one before it; too old, the mean. Never raises."""
        row = int((now - self.start) // HOUR_SECONDS)
        row = min(max(row, 0), len(self.g_per_kwh) - 1)
        begun = self.start + HOUR_SECONDS * row
        age = max(0.0, now - begun - HOUR_SECONDS)
        known = CarbonReading(
            g_per_kwh=float(self.g_per_kwh[row]),
            time=begun,
            age_seconds=age,
            zone=self.zone,
            signal=self.signal,
            scope=self.scope,
            method=str(self.methods[row]),
            source=self.source,
            step="last_known" if age else "live",
        )
        if age <= max_age_seconds:
            return known
        mean = float(self.g_per_kwh.mean())
        return replace(known, g_per_kwh=mean, method="mean", step="yearly_mean")

    def places(self, reading: CarbonReading) -> tuple[float, float]:
        """Of a reading of this trace, its recent and its coming place; unknown for a mean."""
        if reading.step == "yearly_mean":
            return UNKNOWN_PLACE, UNKNOWN_PLACE
        at = np.array([reading.time])
        coming = self.coming_place(at)[0] if reading.step == "live" else UNKNOWN_PLACE
        return float(self.recent_place(at)[0]), float(coming)


def iso(seconds: float) -> str:
    """Unix seconds as ISO 8601 UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%MZ")


def join_traces(traces: Sequence[IntensityTrace]) -> IntensityTrace:
    """Traces of whole days one after another, so that training sees the hours of all of them.

    Times go on from the first trace's start; hours of day are kept.

    Raises:
        DataError: a trace before the last has no whole number of days, or begins at another
            hour of the day, or is of another kind.
    """
    first = traces[0]
    for trace in traces[:-1]:
        if len(trace.g_per_kwh) % 24:
            found = f"zone {trace.zone} has {len(trace.g_per_kwh)} hours"
            raise DataError(trace.source, found, "give whole days to join zones, or name a --zone")
    for trace in traces[1:]:
        if trace.kind != first.kind:
            found = f"zone {trace.zone} is {trace.kind}, {first.zone} is {first.kind}"
            raise DataError(trace.source, found, "join intensities of one kind")
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
