"""What is known of a grid from a live source: what was, what is foretold, and the year's mean."""

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
    """Points of a zone, and the chain of what is said of the present.

    live: a reading of now, or one so young that the service has none that is newer; else
    forecast: what was foretold for now; else last_known: the last reading, aged, until it is
    too old; else yearly_mean.

    Attributes:
        mean_g_per_kwh: of the zone's year, as the operator states it.
        live_seconds: see `Source`.
        readings, forecasts: by start; the ones do not overlap, nor do the others.
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
        """With what a source has said: readings add to those before, a forecast replaces."""
        kept = {p.start: p for p in (*self.readings, *readings) if p.end > now - _KEPT_SECONDS}
        # A value of a span that has hardly begun is none that was measured.
        past = tuple(kept[start] for start in sorted(kept) if start <= now)
        told = self.forecasts if forecasts is None else tuple(forecasts)
        coming = sorted((p for p in told if p.end > now), key=lambda p: p.start)
        return replace(self, readings=past, forecasts=tuple(coming))

    def reading(self, now: float, max_age_seconds: float) -> CarbonReading:
        """What is said of now; never raises."""
        last = next((p for p in reversed(self.readings) if p.start <= now), None)
        if last is not None and now < max(last.end, last.start + self.live_seconds):
            return self._said(last, "live", now)
        told = next((p for p in self.forecasts if p.start <= now < p.end), None)
        if told is not None:
            return self._said(told, "forecast", now)
        if last is not None and now - last.end <= max_age_seconds:
            return self._said(last, "last_known", now)
        begun = last if last is not None else Point(now, 0.0, 0.0, "mean")
        mean = replace(begun, g_per_kwh=self.mean_g_per_kwh, method="mean")
        return self._said(mean, "yearly_mean", now)

    def places(self, reading: CarbonReading) -> tuple[float, float]:
        """A reading's place in the trailing day's range, and among the coming day's values."""
        if reading.step == "yearly_mean":
            return UNKNOWN_PLACE, UNKNOWN_PLACE
        begun, now = reading.time, reading.time + reading.age_seconds
        recent = [
            p.g_per_kwh
            for p in self.readings
            if begun - RECENT_HOURS * HOUR_SECONDS < p.start <= begun
        ]
        recent.append(reading.g_per_kwh)
        low, high = min(recent), max(recent)
        place = (reading.g_per_kwh - low) / (high - low) if high > low else UNKNOWN_PLACE
        coming = [
            p.g_per_kwh
            for p in self.forecasts
            if max(begun, now) < p.start <= now + COMING_HOURS * HOUR_SECONDS
        ]
        cleaner = sum(value < reading.g_per_kwh for value in coming)
        return place, cleaner / len(coming) if coming else UNKNOWN_PLACE

    def write(self, path: Path) -> None:
        """Write as JSON, in one step."""
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

    def _said(self, point: Point, step: Step, now: float) -> CarbonReading:
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
    """Read what `Outlook.write` wrote.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}")
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
        found = f"cannot be read ({type(error).__name__}: {error})"
        raise DataError(path, found, "delete it; it is made anew") from error


def open_outlook(source: Source, path: Path, mean_g_per_kwh: float) -> Outlook:
    """What the file knows, where it is of the same source, zone and kind; else nothing."""
    empty = Outlook(source.zone, source.kind, source.name, mean_g_per_kwh, source.live_seconds)
    try:
        kept = read_outlook(path)
    except SproutError:
        return empty
    if (kept.zone, kept.kind, kept.source) != (empty.zone, empty.kind, empty.source):
        return empty
    return replace(empty, readings=kept.readings, forecasts=kept.forecasts)


def _row(point: Point) -> list[Any]:
    return [point.start, point.seconds, point.g_per_kwh, point.method]


def _point(path: Path, row: list[Any]) -> Point:
    start, seconds, value, method = row
    check_intensity(float(value), str(path))
    return Point(float(start), float(seconds), float(value), str(method))
