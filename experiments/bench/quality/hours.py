"""`sprout bench hours`: when the evaluator judges, and what it saves by waiting, on real traces."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from agents.methods.sprout import evaluation_hours
from envs.arrays import Float64Array
from envs.carbon.clean_hours import LIMIT_HOURS, is_cleanest_hour
from envs.carbon.csv_traces import read_traces
from experiments.settings import Settings, write_json
from serving.quality.sampling.trigger import HOUR_SECONDS, Hours, Trigger

# First hours of SPROUT's windows, from the start of 2023, and their length.
STARTS, WINDOW_HOURS = (800, 3900, 7000), 720
# Returns whether waiting samples are judged in an hour, given the hours that the oldest one waited.
Due = Callable[[int, int], bool]


class HoursBench(Settings):
    """Count when the evaluator fires, and compare the grams of one and the same set of verdicts.

    A sample comes each hour of the year, and each firing judges all that wait. All ways judge all
    samples, so that they differ only in the hours.
    """

    traces: Path = Field(description="folder of hourly traces of carbon intensity")
    delays: list[int] = Field(
        [1, 24, LIMIT_HOURS], min_length=1, description="longest waits of a sample, hours"
    )
    json_path: Path | None = Field(
        None, alias="json", description="write the result as JSON to this file"
    )

    def cli_cmd(self) -> None:
        """Count, print the figures by zone, and write the JSON result."""
        zones: dict[str, Any] = {}
        for zone, trace in sorted(read_traces([self.traces]).items()):
            windows = {
                start: firings(trace.at(trace.window_times(start, WINDOW_HOURS)))
                for start in STARTS
                if start + WINDOW_HOURS <= trace.hours
            }
            hourly = trace.at(trace.window_times(0, trace.hours))
            zones[zone] = {"firings": windows, "grams": self._grams(hourly)}
            print(f"{zone}:")
            for start, counts in windows.items():
                print(
                    f"  hours {start} to {start + WINDOW_HOURS}: fires {counts['look_ahead']} "
                    f"times with the mean of the window, which is known in hindsight; "
                    f"{counts['trailing']} times with that of the past"
                )
            for way, figures in zones[zone]["grams"].items():
                print(
                    f"  {way}: {100 * (figures['ratio'] - 1):+.1f} % grams per verdict, against "
                    f"judging at once; waits {figures['mean_wait']:.1f} h in the mean, "
                    f"{figures['longest_wait']:.0f} h at most"
                )
        write_json(self.json_path, {"schema": 1, "zones": zones})

    def _grams(self, hourly: Float64Array) -> dict[str, dict[str, float]]:
        ways: dict[str, Due] = {"SPROUT's rule, past mean": trigger(hourly, "sprout", LIMIT_HOURS)}
        for delay in self.delays:
            ways[f"forecast as yesterday, {delay} h"] = trigger(hourly, "forecast", delay)
            ways[f"perfect forecast, {delay} h (a bound)"] = perfect(hourly, delay)
        return {name: judged(hourly, due) for name, due in ways.items()}


def firings(intensity: Float64Array) -> Mapping[str, int]:
    """Return how often SPROUT's rule fires in a window, with each of the two means."""
    live = trigger(intensity, "sprout", math.inf)
    # One sample always waits, as the published rule assumes.
    hours = [hour for hour in range(len(intensity)) if live(hour, 1)]
    return {"look_ahead": len(evaluation_hours(intensity)), "trailing": len(hours)}


def trigger(hourly: Float64Array, hours: Hours, delay_hours: float) -> Due:
    """Return the evaluator's trigger; its hours must be asked for in their order."""
    made = Trigger(hours, delay_hours * HOUR_SECONDS, 1)

    def due(hour: int, waited: int) -> bool:
        made.saw(hour * HOUR_SECONDS, float(hourly[hour]))
        return made.due(waited * HOUR_SECONDS, 0)

    return due


def perfect(hourly: Float64Array, delay_hours: int) -> Due:
    """Return the same rule with the true intensities in the place of a forecast."""

    def due(hour: int, waited: int) -> bool:
        coming = hourly[hour + 1 : hour + 1 + delay_hours - waited].tolist()
        return waited >= delay_hours or is_cleanest_hour(float(hourly[hour]), coming)

    return due


def judged(hourly: Float64Array, due: Due) -> dict[str, float]:
    """Return the emissions of judging one sample an hour, relative to judging each at once."""
    waiting: list[int] = []
    intensities: list[float] = []
    waits: list[int] = []
    for hour in range(len(hourly)):
        waiting.append(hour)
        if due(hour, hour - waiting[0]) or hour == len(hourly) - 1:
            intensities += [float(hourly[hour])] * len(waiting)
            waits += [hour - came for came in waiting]
            waiting.clear()
    return {
        "ratio": float(np.mean(intensities) / hourly.mean()),
        "mean_wait": float(np.mean(waits)),
        "longest_wait": float(max(waits)),
    }
