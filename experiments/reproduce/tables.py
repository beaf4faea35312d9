"""Tables that compare the reproduced figures with the published ones."""

from typing import Any

import numpy as np
from rich.table import Table

from experiments.console import table_console
from experiments.reproduce.data import PUBLISHED_FIRINGS, STARTS, ZONES

# Each sprout_lp saving should differ by at most this many points from the published one.
NEAR_PCT = 6.0
SIDE_BY_SIDE = ("co2_opt", "sprout_static", "sprout_lp", "sprout_oracle")


def show(result: dict[str, Any]) -> None:
    """Print the tables and a summary of the differences."""
    console = table_console()
    cells = result["cells"]
    for table in (
        _cells(cells, "saving_pct", "Saving %"),
        _cells(cells, "preference_pct_of_base", "Preference % of L0"),
        _methods(result["means"]),
        _firings(cells),
        _sweep(result),
    ):
        console.print(table)
        console.print()
    for line in (
        _far(cells),
        _mixes(result["random_mixes"]),
        _sweep_difference(result["xi_sweep"]),
    ):
        if line:
            console.print(line)
    console.print(
        "model_opt: the authors did not publish which of the two models' answers is preferred, so "
        "its floor is on correctness here and cannot be compared with the published figures."
    )


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _cells(cells: list[dict[str, Any]], figure: str, title: str) -> Table:
    """Return a table of one figure, one row per window and one column per published method."""
    spread = ("lp ±",) if figure == "saving_pct" else ()
    table = _table(f"{title}: ours (published)", "region", "start", *SIDE_BY_SIDE, *spread)
    by_key = {(c["region"], c["start_hour"], c["method"]): c for c in cells}
    for region in ZONES:
        for start in STARTS:
            row = [by_key[region, start, method] for method in SIDE_BY_SIDE]
            deviation = by_key[region, start, "sprout_lp"]["saving_deviation_pct"]
            table.add_row(
                region,
                str(start),
                *(f"{cell[figure]:.1f} ({cell[f'published_{figure}']:.1f})" for cell in row),
                *(f"{deviation or 0:.1f}" for _ in spread),
            )
    return table


def _methods(means: dict[str, dict[str, Any]]) -> Table:
    table = _table(
        "Means over the 15 windows; worst task's quality / L0, hours under the floor",
        *("method", "saving %", "published", "prefer. %", "published", "worst", "hours %"),
    )
    for method, mean in means.items():
        deviation = mean["saving_deviation_pct"]
        table.add_row(
            method,
            f"{mean['saving_pct']:.1f}" + (f" ± {deviation:.1f}" if deviation else ""),
            *(
                "" if mean[name] is None else f"{mean[name]:.{digits}f}"
                for name, digits in (
                    ("published_saving_pct", 1),
                    ("preference_pct_of_base", 1),
                    ("published_preference_pct_of_base", 1),
                    ("worst_task_ratio", 2),
                    ("hours_under_floor_pct", 0),
                )
            ),
        )
    return table


def _firings(cells: list[dict[str, Any]]) -> Table:
    table = _table("Times the evaluator fired (published)", "start", *ZONES)
    for start in STARTS:
        firings = {
            cell["region"]: cell["firings"]
            for cell in cells
            if cell["method"] == "sprout_lp" and cell["start_hour"] == start
        }
        published = dict(zip(ZONES, PUBLISHED_FIRINGS[start], strict=True))
        table.add_row(str(start), *(f"{firings[r]} ({published[r]})" for r in ZONES))
    return table


def _far(cells: list[dict[str, Any]]) -> str:
    """Return a sentence about the sprout_lp cells that differ by more than `NEAR_PCT` points."""
    far = [
        f"{cell['region']} at {cell['start_hour']}"
        for cell in cells
        if cell["method"] == "sprout_lp"
        and abs(cell["saving_pct"] - cell["published_saving_pct"]) > NEAR_PCT
    ]
    if not far:
        return f"Every sprout_lp cell is within {NEAR_PCT:.0f} points of the published saving."
    return (
        f"More than {NEAR_PCT:.0f} points from the published saving: {', '.join(far)}. The "
        "published figure is one draw of the prompts; the table shows the deviation between runs."
    )


def _mixes(mixes: list[dict[str, Any]]) -> str:
    """Return one line per method about its figures under the random mixes."""
    if not mixes:
        return ""
    lines = []
    for method in dict.fromkeys(mix["method"] for mix in mixes):
        results = [mix for mix in mixes if mix["method"] == method]
        savings = np.array([mix["saving_pct"] for mix in results])
        preferences = np.array([mix["preference_pct_of_base"] for mix in results])
        deviation = savings.std(ddof=1) if len(results) > 1 else 0.0
        lines.append(
            f"{method} under {len(results)} random mixes: saving {savings.mean():.1f}% (deviation "
            f"{deviation:.1f}, {savings.min():.1f} to {savings.max():.1f}), preference "
            f"{preferences.mean():.1f}% ({preferences.min():.1f} to {preferences.max():.1f})"
        )
    return "\n".join(lines)


def _sweep(result: dict[str, Any]) -> Table:
    """Return a table of the savings at some tolerances; the JSON result has all of them."""
    table = _table("Saving % by tolerance, first window (published)", "xi", *ZONES)
    by_key = {(row["region"], row["xi"]): row for row in result["xi_sweep"]}
    for xi in (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3):
        rows = [by_key[region, xi] for region in ZONES]
        table.add_row(
            f"{xi:.2f}",
            *(
                f"{row['saving_pct']:.1f}"
                + (f" ({row['published_saving_pct']:.1f})" if row["published_saving_pct"] else "")
                for row in rows
            ),
        )
    return table


def _sweep_difference(sweep: list[dict[str, Any]]) -> str:
    """Return a sentence about the differences from the published sweep of tolerances."""
    known = [row for row in sweep if row["published_saving_pct"] is not None]
    if not known:
        return ""
    differences = np.array([row["saving_pct"] - row["published_saving_pct"] for row in known])
    return (
        f"xi from {known[0]['xi']:.2f} to {known[-1]['xi']:.2f}, first window, {len(known)} "
        f"published points: our saving differs by {differences.mean():+.1f} points on average "
        f"(mean absolute difference {abs(differences).mean():.1f}, largest "
        f"{abs(differences).max():.1f})."
    )
