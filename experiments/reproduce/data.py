"""The reproduction's input data, read from one folder and checked before the long run."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from envs.carbon.csv_traces import read_traces
from envs.carbon.intensity import IntensityTrace
from envs.errors import DataError
from envs.outcomes.outcome import ARRAYS
from envs.outcomes.profile import Profile
from envs.outcomes.profile_reader import read_profile
from envs.requests.mix import Mix, read_job_counts, read_mix
from experiments.reproduce.window import HOURS, Sample, Window

DIRECTIVES = ("none", "brief", "very_brief")
LARGE, SMALL = "llama-2-13b-chat", "llama-2-7b-chat"
# Region names in the paper -> zone names in its traces.
ZONES = {
    "US-TEX": "US-TEX-ERCO",
    "US-CAL": "US-CAL-CISO",
    "AU-SA": "AU-SA",
    "NL": "NL",
    "GB": "GB",
}
# First hour of each window, counted from the start of 2023.
STARTS = (800, 3900, 7000)
# Published number of evaluator firings in each window: start hour -> counts in ZONES order.
PUBLISHED_FIRINGS = {
    800: (46, 29, 46, 40, 34),
    3900: (33, 42, 48, 31, 38),
    7000: (41, 31, 51, 44, 41),
}
Published = dict[tuple[str, int, str, float], tuple[float, float]]


@dataclass(frozen=True)
class Data:
    """The content of the data folder.

    Attributes:
        profile: outcomes of the large model under the three directives.
        models: outcomes of the large and the small model at L0, as the two columns of a
            profile.
        traces: intensity trace of each region.
        mix: hourly task mix of the published runs.
        jobs: job counts from which random mixes are made.
        published: published saving and preference, both %, by (region, start hour, method,
            xi).
    """

    profile: Profile
    models: Profile
    traces: dict[str, IntensityTrace]
    mix: Mix
    jobs: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    published: Published

    def window(self, sample: Sample, region: str, start_hour: int, xi: float) -> Window:
        """Return the window of the region that starts at `start_hour`, with the sample's prompts.

        Args:
            start_hour: first hour of the window, counted from the start of the trace.
            xi: tolerance of SPROUT's quality floor.
        """
        trace = self.traces[region]
        hours = trace.hour(trace.window_times(start_hour, HOURS))
        before = trace.hour(trace.window_times(start_hour - HOURS, HOURS))
        values = trace.g_per_kwh
        return Window(
            sample,
            values[hours],
            float(values.min()),
            float(values.max()),
            float(values[before].mean()),
            xi,
        )


def read_data(folder: Path) -> Data:
    """Read and check the data folder.

    Raises:
        DataError: a file is missing or wrong, a zone of the paper has no trace, or a trace
            ends before the last window.
    """
    if not folder.is_dir():
        raise DataError(
            folder, "no such folder", "give the folder of the published data with --data"
        )
    outcomes = folder / "llama2_outcomes.parquet"
    intensity = folder / "carbon_intensity"
    by_zone = read_traces([intensity])
    for zone in ZONES.values():
        if zone not in by_zone:
            raise DataError(intensity, f"zone {zone!r} is missing", f"zones are {sorted(by_zone)}")
        by_zone[zone].window_times(max(STARTS), HOURS)
    profile = read_profile(outcomes, LARGE, DIRECTIVES)
    small = read_profile(outcomes, SMALL, ("none",))
    path = folder / "sprout_task_mix.csv"
    mix = read_mix(path)
    if len(mix.shares) != HOURS:
        raise DataError(path, f"has {len(mix.shares)} hours", f"give {HOURS}, one per hour")
    return Data(
        profile,
        _two_models(outcomes, profile, small),
        {region: by_zone[zone] for region, zone in ZONES.items()},
        mix.aligned(profile.tasks, str(path)),
        read_job_counts(folder / "pai_hourly_jobs.csv"),
        _published(folder / "sprout_published.csv"),
    )


def _two_models(path: Path, large: Profile, small: Profile) -> Profile:
    """Return a profile with the outcomes of the large and the small model at L0 as columns.

    Raises:
        DataError: the small model lacks a request of the large one.
    """
    index = {r.request_id: i for i, r in enumerate(small.requests)}
    missing = [r.request_id for r in large.requests if r.request_id not in index]
    if missing:
        raise DataError(
            path, f"model {SMALL} lacks request {missing[0]!r}", "give every request of both models"
        )
    aligned = small.select([index[r.request_id] for r in large.requests])
    at_l0: dict[str, Any] = {
        name: np.stack(
            [getattr(large.outcomes, name)[:, 0], getattr(aligned.outcomes, name)[:, 0]], axis=1
        )
        for name in ARRAYS
    }
    return replace(
        large,
        directives=(LARGE, SMALL),
        model=f"{LARGE}+{SMALL}",
        outcomes=replace(large.outcomes, responses=None, **at_l0),
    )


def _published(path: Path) -> Published:
    cells: Published = {}
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                key = (row["region"], int(row["start_hour"]), row["method"], float(row["xi"]))
                cells[key] = (float(row["saving_pct"]), float(row["preference_pct_of_base"]))
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            path, f"cannot be read ({error!r})", "give the published table as CSV"
        ) from error
    for region in ZONES:
        for start in STARTS:
            if (region, start, "sprout_lp", 0.1) not in cells:
                raise DataError(path, f"no sprout_lp row for {region} at {start}", "give all 15")
    return cells
