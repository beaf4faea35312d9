"""Outlook on a grid's carbon intensity: past readings, forecasts and the yearly mean."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from envs.carbon.intensity import (
    COMING_HOURS,
    HOUR_SECONDS,
    RECENT_HOURS,
    UNKNOWN_PLACE,
    CarbonReading,
    Kind,
    Step,
)
from envs.carbon.live.source import Point, Source
from envs.errors import DataError, SproutError
from envs.plausible import check_intensity

SCHEMA = 1
_KEPT_SECONDS = (RECENT_HOURS + 2) * HOUR_SECONDS


@dataclass(frozen=True)
class Outlook:
    """Intensities of one zone, and the choice among them for the present.

    The current intensity is the first available of four steps:
    live: a reading of now, or one so recent that the service has no newer reading;
    forecast: the prediction for now;
    last_known: the last reading, with its age, until it is too old;
    yearly_mean: the stated mean.

    Attributes:
        zone: name of the grid.
        kind: kind of all figures.
        source: name of the service.
        mean_g_per_kwh: mean of the zone's year, as the operator states it, gCO2e/kWh.
        live_seconds: time after its start for which a reading counts as current, s.
        readings, forecasts: points ordered by start, without overlaps within each tuple.
    """

    zone: str
    kind: Kind
    source: str
    mean_g_per_kwh: float
    live_seconds: float
    readings: tuple[Point, ...] = field(default=(), repr=False)
    forecasts: tuple[Point, ...] = field(default=(), repr=False)

    def with_points(
        self, now: float, readings: Iterable[Point] = (), forecasts: Iterable[Point] | None = None
    ) -> "Outlook":
        """Return the outlook with a source's new points and without outdated ones.

        Args:
            now: Unix seconds.
            readings: added to the present readings.
            forecasts: replace the present forecasts; None keeps them.
        """
        known = {p.start: p for p in (*self.readings, *readings) if p.end > now - _KEPT_SECONDS}
        # A period that has not begun cannot have been measured.
        past = tuple(known[start] for start in sorted(known) if start <= now)
        predicted = self.forecasts if forecasts is None else tuple(forecasts)
        coming = sorted((p for p in predicted if p.end > now), key=lambda p: p.start)
        return replace(self, readings=past, forecasts=tuple(coming))

    def reading(self, now: float, max_age_seconds: float) -> CarbonReading:
        """Return the best available intensity for `now` (Unix seconds); never raise.

        Args:
            max_age_seconds: age up to which the last reading is used rather than the mean, s.
        """
        last = next((p for p in reversed(self.readings) if p.start <= now), None)
        if last is not None and now < max(last.end, last.start + self.live_seconds):
            return self._carbon_reading(last, "live", now)
        predicted = next((p for p in self.forecasts if p.start <= now < p.end), None)
        if predicted is not None:
            return self._carbon_reading(predicted, "forecast", now)
        if last is not None and now - last.end <= max_age_seconds:
            return self._carbon_reading(last, "last_known", now)
        base = last if last is not None else Point(now, 0.0, 0.0, "mean")
        mean = replace(base, g_per_kwh=self.mean_g_per_kwh, method="mean")
        return self._carbon_reading(mean, "yearly_mean", now)

    def places(self, reading: CarbonReading) -> tuple[float, float]:
        """Return a reading's place in the trailing day's range, and among the coming day's values.

        The first is 0 for the lowest and 1 for the highest intensity; the second is the fraction
        of the coming values that are cleaner. Either may be `UNKNOWN_PLACE`.
        """
        if reading.step == "yearly_mean":
            return UNKNOWN_PLACE, UNKNOWN_PLACE
        start, now = reading.time, reading.time + reading.age_seconds
        recent = [
            p.g_per_kwh
            for p in self.readings
            if start - RECENT_HOURS * HOUR_SECONDS < p.start <= start
        ]
        recent.append(reading.g_per_kwh)
        low, high = min(recent), max(recent)
        place = (reading.g_per_kwh - low) / (high - low) if high > low else UNKNOWN_PLACE
        coming = [
            p.g_per_kwh
            for p in self.forecasts
            if max(start, now) < p.start <= now + COMING_HOURS * HOUR_SECONDS
        ]
        cleaner = sum(value < reading.g_per_kwh for value in coming)
        return place, cleaner / len(coming) if coming else UNKNOWN_PLACE

    def write(self, path: Path) -> None:
        """Write the outlook as JSON; the file is replaced atomically."""
        content = {
            "schema": SCHEMA,
            "zone": self.zone,
            "signal": self.kind.signal,
            "scope": self.kind.scope,
            "source": self.source,
            "mean_g_per_kwh": self.mean_g_per_kwh,
            "live_seconds": self.live_seconds,
            "readings": [_row(p) for p in self.readings],
            "forecasts": [_row(p) for p in self.forecasts],
        }
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        draft.write_text(json.dumps(content), encoding="utf-8")
        draft.replace(path)

    def _carbon_reading(self, point: Point, step: Step, now: float) -> CarbonReading:
        return CarbonReading(
            g_per_kwh=point.g_per_kwh,
            time=point.start,
            age_seconds=max(0.0, now - point.end),
            zone=self.zone,
            signal=self.kind.signal,
            scope=self.kind.scope,
            method=point.method,
            source=self.source,
            step=step,
        )


def read_outlook(path: Path) -> Outlook:
    """Read a file written by `Outlook.write`.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema is {content['schema']}, not {SCHEMA}")
        return Outlook(
            str(content["zone"]),
            Kind(str(content["signal"]), str(content["scope"])),
            str(content["source"]),
            float(content["mean_g_per_kwh"]),
            float(content["live_seconds"]),
            tuple(_point(path, row) for row in content["readings"]),
            tuple(_point(path, row) for row in content["forecasts"]),
        )
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"cannot be read ({type(error).__name__}: {error})"
        raise DataError(path, problem, "delete it; it is created again") from error


def open_outlook(source: Source, path: Path, mean_g_per_kwh: float) -> Outlook:
    """Return the outlook in a file, or an empty one.

    The file counts only if it can be read and is of the same service, zone and kind.

    Args:
        mean_g_per_kwh: mean of the zone's year, gCO2e/kWh; replaces the mean in the file.
    """
    empty = Outlook(source.zone, source.kind, source.name, mean_g_per_kwh, source.live_seconds)
    try:
        stored = read_outlook(path)
    except SproutError:
        return empty
    if (stored.zone, stored.kind, stored.source) != (empty.zone, empty.kind, empty.source):
        return empty
    return replace(empty, readings=stored.readings, forecasts=stored.forecasts)


def _row(point: Point) -> list[Any]:
    return [point.start, point.seconds, point.g_per_kwh, point.method]


def _point(path: Path, row: list[Any]) -> Point:
    start, seconds, value, method = row
    check_intensity(float(value), str(path))
    return Point(float(start), float(seconds), float(value), str(method))
