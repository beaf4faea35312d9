"""Carbon intensity of the grid: single readings, and hourly traces of a zone."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from envs.arrays import Float64Array, Int64Array, StrArray
from envs.errors import DataError

HOUR_SECONDS = 3600.0
# Lengths that a trace's steps may have, s.
STEP_SECONDS = (300.0, 600.0, 900.0, 1800.0, HOUR_SECONDS)
# An intensity is placed in the range of this many trailing hours, which live code knows as well.
RECENT_HOURS = 24
# An intensity is also placed among this many hours to come, if there is a forecast.
COMING_HOURS = 24
UNKNOWN_PLACE = 0.5
# Hours at which each prompt of a profile is measured. With one, it is luck which prompts meet a
# dirty grid; three take most of that luck away.
HOURS = 3

# Origin of a reading, the best first; each step is used only if those before it fail.
Step = Literal["live", "forecast", "last_known", "yearly_mean", "constant"]
STEPS: tuple[Step, ...] = get_args(Step)
SIGNALS, SCOPES = ("average", "marginal"), ("direct", "lifecycle")


@dataclass(frozen=True)
class Kind:
    """Kind of an intensity figure; figures of different kinds must not be mixed.

    Attributes:
        signal: "average" over all generation, or "marginal": the emissions of one more kWh.
        scope: "direct" emissions of running plants, or "lifecycle", with construction and fuel.
    """

    signal: str
    scope: str

    def __str__(self) -> str:
        return f"{self.signal} {self.scope}"


@dataclass(frozen=True)
class CarbonReading:
    """Carbon intensity at one time and place, with the kind and origin of the figure.

    Attributes:
        g_per_kwh: intensity, gCO2e/kWh.
        time: start of the hour (or shorter period) that the figure holds for, Unix seconds UTC.
        age_seconds: time since the end of that period, s; 0 within the period.
        zone: name of the grid.
        signal, scope: kind of the figure, see `Kind`.
        method: "measured", "estimated", "forecast", "mean", "stated" by the operator, or
            "unstated" by the source.
        source: name of the service or file.
        step: origin of the figure, one of `STEPS`.
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
        """Kind of the figure: average or marginal, direct or lifecycle."""
        return Kind(self.signal, self.scope)


@dataclass(frozen=True)
class IntensityTrace:
    """Carbon intensity of one zone, in steps of an hour or of a part of it.

    Attributes:
        zone: name of the grid.
        start: start of the first step, Unix seconds UTC.
        g_per_kwh: intensity of each step, gCO2e/kWh, shape (steps,).
        methods: "measured", "estimated", "stated" by the operator or "unstated" by the source,
            shape (steps,).
        source: name of the file.
        signal, scope: kind of the figures, see `Kind`.
        step_seconds: length of a step, s, one of `STEP_SECONDS`.
        parts: the traces that this one joins; empty if it is one of its own.
    """

    zone: str
    start: float
    g_per_kwh: Float64Array
    methods: StrArray
    source: str
    signal: str = "average"
    scope: str = "direct"
    step_seconds: float = HOUR_SECONDS
    parts: "tuple[IntensityTrace, ...]" = ()

    @property
    def steps_per_hour(self) -> int:
        """Steps of an hour."""
        return round(HOUR_SECONDS / self.step_seconds)

    @property
    def hours(self) -> int:
        """Number of whole hours."""
        return len(self.g_per_kwh) // self.steps_per_hour

    @property
    def mean_g_per_kwh(self) -> float:
        """Mean intensity, gCO2e/kWh."""
        return float(self.g_per_kwh.mean())

    @property
    def end(self) -> float:
        """End of the last step, Unix seconds."""
        return self.start + self.step_seconds * len(self.g_per_kwh)

    @property
    def kind(self) -> Kind:
        """Kind of the figures: average or marginal, direct or lifecycle."""
        return Kind(self.signal, self.scope)

    @property
    def sha256(self) -> str:
        """SHA-256 digest of the intensities, in hexadecimal."""
        return hashlib.sha256(np.ascontiguousarray(self.g_per_kwh).tobytes()).hexdigest()

    def split_days(self, share: float) -> "tuple[IntensityTrace | None, IntensityTrace | None]":
        """Return the trace without its last days, and these, a share of all whole days, rounded up.

        None stands for a part without hours. The last day may be incomplete.
        """
        per_day = 24 * self.steps_per_hour
        days = math.ceil(len(self.g_per_kwh) / per_day)
        cut = per_day * (days - math.ceil(share * days))
        earlier, later = (
            replace(
                self,
                start=self.start + self.step_seconds * first,
                g_per_kwh=self.g_per_kwh[first:last],
                methods=self.methods[first:last],
            )
            for first, last in ((0, cut), (cut, len(self.g_per_kwh)))
        )
        return (earlier if cut else None), (later if cut < len(self.g_per_kwh) else None)

    def hour(self, times: Float64Array) -> Int64Array:
        """Return the number of whole hours from the trace's start to each time (Unix seconds).

        Raises:
            DataError: a time lies outside the trace.
        """
        return self.step(times) // self.steps_per_hour

    def step(self, times: Float64Array) -> Int64Array:
        """Return the index of the step that holds each time (Unix seconds).

        Raises:
            DataError: a time lies outside the trace.
        """
        rows = np.floor((np.asarray(times) - self.start) / self.step_seconds).astype(np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self.g_per_kwh)):
            outside = float(np.min(times)) if rows.min() < 0 else float(np.max(times))
            problem = f"no intensity for {iso(outside)}: the trace covers "
            problem += f"{iso(self.start)} to {iso(self.end)}"
            remedy = "start the clock within the trace or give a longer trace"
            raise DataError(self.source, problem, remedy)
        return rows

    def window_times(self, start_hour: int, hours: int) -> Float64Array:
        """Return the start of each hour in a window, Unix seconds, shape (hours,).

        Args:
            start_hour, hours: start of the window from the trace's start, and its length.

        Raises:
            DataError: the trace does not cover the window.
        """
        available = self.hours
        if start_hour < 0 or hours < 1 or start_hour + hours > available:
            raise DataError(
                self.source,
                f"zone {self.zone}: hours {start_hour} to {start_hour + hours} asked for, but the "
                f"trace has {available}, from {iso(self.start)} to {iso(self.end)}",
                "give a window within it or a longer trace",
            )
        return self.start + HOUR_SECONDS * np.arange(
            start_hour, start_hour + hours, dtype=np.float64
        )

    def spread(self, count: int, rng: np.random.Generator) -> Float64Array:
        """Return times spread evenly over the trace's steps, in random order, shape (count,).

        They cover the trace with fewer gaps than random times. Unix seconds.
        """
        steps = np.linspace(0, len(self.g_per_kwh), count, endpoint=False).astype(np.int64)
        times: Float64Array = self.start + self.step_seconds * rng.permutation(steps)
        return times

    def spread_each(self, count: int, rng: np.random.Generator) -> Float64Array:
        """Return `HOURS` times, as from `spread`, for each of `count` prompts, (HOURS, count)."""
        return np.stack([self.spread(count, rng) for _ in range(HOURS)])

    def at(self, times: Float64Array) -> Float64Array:
        """Return the intensity at each time (Unix seconds), gCO2e/kWh."""
        return self.g_per_kwh[self.step(times)]

    def recent_place(self, times: Float64Array) -> Float64Array:
        """Return each intensity's place in the trailing day's range: 0 lowest, 1 highest.

        An empty range, as in a trace's first hour, gives 0.5.
        """
        return self._recent_places[self.step(times)]

    @cached_property
    def _recent_places(self) -> Float64Array:
        size = RECENT_HOURS * self.steps_per_hour
        padded = np.concatenate([np.full(size - 1, np.nan), self.g_per_kwh])
        windows = np.lib.stride_tricks.sliding_window_view(padded, size)
        low, high = np.nanmin(windows, axis=1), np.nanmax(windows, axis=1)
        span = np.where(high > low, high - low, 1.0)
        return np.where(high > low, (self.g_per_kwh - low) / span, 0.5)

    def coming_place(self, times: Float64Array) -> Float64Array:
        """Return the fraction of the coming day's steps that are cleaner than each time's step.

        The trace itself is the forecast, a perfect one; its last step has `UNKNOWN_PLACE`.
        """
        return self._coming_places[self.step(times)]

    @cached_property
    def _coming_places(self) -> Float64Array:
        size = COMING_HOURS * self.steps_per_hour
        padded = np.concatenate([self.g_per_kwh, np.full(size, np.nan)])
        windows = np.lib.stride_tricks.sliding_window_view(padded[1:], size)
        known = (~np.isnan(windows)).sum(axis=1)
        cleaner = (windows < self.g_per_kwh[:, None]).sum(axis=1)
        return np.where(known > 0, cleaner / np.maximum(known, 1), UNKNOWN_PLACE)

    def reading(self, now: float, max_age_seconds: float = float("inf")) -> CarbonReading:
        """Return the reading for `now` (Unix seconds); never raise.

        After the trace's end this is the last step's reading until it is older than
        `max_age_seconds`, then the trace's mean.
        """
        row = int((now - self.start) // self.step_seconds)
        row = min(max(row, 0), len(self.g_per_kwh) - 1)
        step_start = self.start + self.step_seconds * row
        age = max(0.0, now - step_start - self.step_seconds)
        reading = CarbonReading(
            g_per_kwh=float(self.g_per_kwh[row]),
            time=step_start,
            age_seconds=age,
            zone=self.zone,
            signal=self.signal,
            scope=self.scope,
            method=str(self.methods[row]),
            source=self.source,
            step="last_known" if age else "live",
        )
        if age <= max_age_seconds:
            return reading
        return replace(reading, g_per_kwh=self.mean_g_per_kwh, method="mean", step="yearly_mean")

    def places(self, reading: CarbonReading) -> tuple[float, float]:
        """Return a reading's recent and coming place; `UNKNOWN_PLACE` if the trace cannot tell."""
        if reading.step == "yearly_mean":
            return UNKNOWN_PLACE, UNKNOWN_PLACE
        times = np.array([reading.time])
        coming = self.coming_place(times)[0] if reading.step == "live" else UNKNOWN_PLACE
        return float(self.recent_place(times)[0]), float(coming)


def iso(seconds: float) -> str:
    """Return Unix seconds as ISO 8601 in UTC, to the minute."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%MZ")


def join_traces(traces: Sequence[IntensityTrace]) -> IntensityTrace:
    """Concatenate traces of whole days, so that training sees the hours of all zones.

    Times continue from the first trace's start, and each value keeps its hour of the day.

    Raises:
        DataError: a trace before the last is not a whole number of days long, or a trace begins
            at another hour of the day, has other steps or is of another kind than the first.
    """
    first = traces[0]
    for trace in traces[:-1]:
        if len(trace.g_per_kwh) % (24 * trace.steps_per_hour):
            problem = f"zone {trace.zone} has {trace.hours} hours"
            raise DataError(trace.source, problem, "give whole days to join zones, or one --zone")
    for trace in traces[1:]:
        if trace.kind != first.kind:
            problem = f"zone {trace.zone} is {trace.kind}, {first.zone} is {first.kind}"
            raise DataError(trace.source, problem, "join only intensities of one kind")
        if trace.step_seconds != first.step_seconds:
            steps = [f"{one.step_seconds / 60:g} minutes" for one in (trace, first)]
            problem = f"zone {trace.zone} has steps of {steps[0]}, {first.zone} of {steps[1]}"
            raise DataError(trace.source, problem, "give zones with the same steps")
        if (trace.start - first.start) % (24 * HOUR_SECONDS):
            starts = iso(trace.start), iso(first.start)
            problem = f"zone {trace.zone} begins at {starts[0]}, {first.zone} at {starts[1]}"
            raise DataError(trace.source, problem, "give zones that begin at the same hour of day")
    return replace(
        first,
        zone="+".join(trace.zone for trace in traces),
        g_per_kwh=np.concatenate([trace.g_per_kwh for trace in traces]),
        methods=np.concatenate([trace.methods for trace in traces]),
        source=", ".join(dict.fromkeys(trace.source for trace in traces)),
        parts=tuple(traces) if len(traces) > 1 else (),
    )
