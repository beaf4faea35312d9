"""`sprout reproduce sprout`: recompute the table of Li et al. (EMNLP 2024) from its data."""

import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from rich.progress import Progress

from experiments.reproduce.data import Data, read_data
from experiments.reproduce.methods import METHODS
from experiments.reproduce.runs import Row, Run, rows_of
from experiments.reproduce.tables import show
from experiments.settings import Settings, write_json

SWEEP_START = 800
SWEEP = tuple(xi / 100 for xi in range(2, 31))
XI = 0.1
RANDOM_MIX_METHODS = ("co2_opt", "sprout_lp")


class ReproduceSprout(Settings):
    """Recompute SPROUT's published table of 15 windows of 720 hours, and compare the two.

    As the authors did, each run draws 1,000 prompts per hour by the task mix; all regions
    share these prompts. The published figures are one such run; ours are means over runs.
    """

    data: Path = Field(description="folder with the published data (or SPROUT_DATA)")
    seeds: int = Field(10, ge=1, description="number of runs under the published mix")
    mixes: int = Field(20, ge=0, description="number of random mixes made from the job counts")
    processes: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        description="parallel processes; default one per core",
    )
    json_path: Path | None = Field(
        None, alias="json", description="file for the machine-readable result"
    )

    def cli_cmd(self) -> None:
        """Run all simulations, print the comparison and write the result."""
        # Read before the long run, so that wrong data fails at once.
        data = read_data(self.data)
        runs = self._runs()
        rows: list[Row] = []
        with Progress(transient=True) as progress:
            bar = progress.add_task("runs", total=len(runs))
            for run_rows in rows_of(self.data, runs, self.processes):
                rows += run_rows
                progress.advance(bar)
        result = collected(rows, data)
        show(result)
        write_json(self.json_path, result)

    def _runs(self) -> list[Run]:
        methods = (*METHODS, "model_opt")
        # The clairvoyant runs once: it takes as long as all other methods and hardly varies.
        published = [
            Run(seed, None, (*methods, "clairvoyant") if seed == 0 else methods)
            for seed in range(self.seeds)
        ]
        sweep = [
            Run(seed, None, ("sprout_lp",), (SWEEP_START,), SWEEP) for seed in range(self.seeds)
        ]
        mixes = [Run(0, mix, RANDOM_MIX_METHODS) for mix in range(self.mixes)]
        return published + sweep + mixes


def collected(rows: list[Row], data: Data) -> dict[str, Any]:
    """Return the JSON result: means over runs, together with the published figures."""
    table: dict[tuple[str, int, str], list[Row]] = defaultdict(list)
    sweep: dict[tuple[str, float], list[Row]] = defaultdict(list)
    mixes: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        if row.run.mix_seed is not None:
            mixes[row.run.mix_seed].append(row)
        elif len(row.run.xis) > 1:
            sweep[row.region, row.xi].append(row)
        else:
            table[row.region, row.start_hour, row.method].append(row)
    cells = [_cell(*key, cell_rows, data) for key, cell_rows in table.items()]
    return {
        "cells": cells,
        "means": _means(cells, table),
        "random_mixes": [
            {"mix_seed": seed, **_figures([row for row in mix_rows if row.method == method])}
            | {"method": method}
            for seed, mix_rows in mixes.items()
            for method in RANDOM_MIX_METHODS
        ],
        "xi_sweep": [
            {
                "region": region,
                "start_hour": SWEEP_START,
                "xi": xi,
                **_figures(sweep_rows),
                **_published(data, region, SWEEP_START, "sprout_lp", xi),
            }
            for (region, xi), sweep_rows in sweep.items()
        ],
    }


def _cell(region: str, start: int, method: str, rows: list[Row], data: Data) -> dict[str, Any]:
    savings = [row.cell.saving_pct for row in rows]
    return {
        "region": region,
        "start_hour": start,
        "method": method,
        "quality": "correct" if method == "model_opt" else "preference",
        "saving_pct": _mean(rows, "saving_pct"),
        "saving_deviation_pct": float(np.std(savings, ddof=1)) if len(rows) > 1 else None,
        "preference_pct_of_base": _mean(rows, "preference_pct_of_base"),
        "firings": rows[0].firings,
        "worst_task_ratio": _mean(rows, "worst_task_ratio"),
        "hours_under_floor_pct": _mean(rows, "hours_under_floor_pct"),
        "shares": [float(x) for x in np.mean([row.cell.shares for row in rows], axis=0)],
        "runs": len(rows),
        **_published(data, region, start, method, XI),
    }


def _published(data: Data, region: str, start: int, method: str, xi: float) -> dict[str, Any]:
    saving, preference = data.published.get((region, start, method, xi), (None, None))
    return {"published_saving_pct": saving, "published_preference_pct_of_base": preference}


def _means(
    cells: list[dict[str, Any]], table: Mapping[tuple[str, int, str], list[Row]]
) -> dict[str, dict[str, Any]]:
    """Return each method's means over its windows, and the standard deviation between runs."""
    names = (
        "saving_pct",
        "preference_pct_of_base",
        "worst_task_ratio",
        "hours_under_floor_pct",
        "published_saving_pct",
        "published_preference_pct_of_base",
    )
    means: dict[str, dict[str, Any]] = {}
    for method in dict.fromkeys(cell["method"] for cell in cells):
        method_cells = [cell for cell in cells if cell["method"] == method]
        means[method] = {
            name: None
            if any(cell[name] is None for cell in method_cells)
            else float(np.mean([cell[name] for cell in method_cells]))
            for name in names
        }
        savings = np.array(
            [
                [row.cell.saving_pct for row in rows]
                for key, rows in table.items()
                if key[2] == method
            ]
        )
        runs = savings.mean(axis=0)
        means[method]["saving_deviation_pct"] = float(runs.std(ddof=1)) if len(runs) > 1 else None
    return means


def _figures(rows: list[Row]) -> dict[str, float]:
    return {name: _mean(rows, name) for name in ("saving_pct", "preference_pct_of_base")}


def _mean(rows: list[Row], name: str) -> float:
    return float(np.mean([getattr(row.cell, name) for row in rows]))
