"""The reproduction on the screen: ours beside the published figures."""

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.reproduce.data import PUBLISHED_FIRINGS, STARTS, ZONES

# Every single cell of sprout_lp should come within this of the published one.
NEAR_PCT = 6.0
SIDE_BY_SIDE = ("co2_opt", "sprout_static", "sprout_lp", "sprout_oracle")


def show(result: dict[str, Any]) -> None:
    """Print the tables and what they come to."""
    console = Console()
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
    for line in (_far(cells), _mixes(result["random_mixes"]), _off(result["xi_sweep"])):
        if line:
            console.print(line)
    console.print(
        "model_opt: which of two models' answers is preferred was not published; its floor is "
        "on correctness, and so not to be compared with the published figures."
    )


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _cells(cells: list[dict[str, Any]], figure: str, title: str) -> Table:
    """A figure of every window under every published method, ours (published)."""
    spread = ("lp ±",) if figure == "saving_pct" else ()
    table = _table(f"{title}: ours (published)", "region", "start", *SIDE_BY_SIDE, *spread)
    found = {(c["region"], c["start_hour"], c["method"]): c for c in cells}
    for region in ZONES:
        for start in STARTS:
            row = [found[region, start, method] for method in SIDE_BY_SIDE]
            deviation = found[region, start, "sprout_lp"]["saving_deviation_pct"]
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
    for method, found in means.items():
        deviation = found["saving_deviation_pct"]
        table.add_row(
            method,
            f"{found['saving_pct']:.1f}" + (f" ± {deviation:.1f}" if deviation else ""),
            *(
                "" if found[name] is None else f"{found[name]:.{digits}f}"
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
        found = {
            cell["region"]: cell["firings"]
            for cell in cells
            if cell["method"] == "sprout_lp" and cell["start_hour"] == start
        }
        published = dict(zip(ZONES, PUBLISHED_FIRINGS[start], strict=True))
        table.add_row(str(start), *(f"{found[r]} ({published[r]})" for r in ZONES))
    return table


def _far(cells: list[dict[str, Any]]) -> str:
    """The sprout_lp cells that differ much from the published one."""
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
        "published figure is one draw of the judged prompts; a run's deviation is in the table."
    )


def _mixes(mixes: list[dict[str, Any]]) -> str:
    if not mixes:
        return ""
    lines = []
    for method in dict.fromkeys(mix["method"] for mix in mixes):
        mine = [mix for mix in mixes if mix["method"] == method]
        savings = np.array([mix["saving_pct"] for mix in mine])
        kept = np.array([mix["preference_pct_of_base"] for mix in mine])
        deviation = savings.std(ddof=1) if len(mine) > 1 else 0.0
        lines.append(
            f"{method} under {len(mine)} random mixes: saving {savings.mean():.1f}% (deviation "
            f"{deviation:.1f}, {savings.min():.1f} to {savings.max():.1f}), preference "
            f"{kept.mean():.1f}% ({kept.min():.1f} to {kept.max():.1f})"
        )
    return "\n".join(lines)


def _sweep(result: dict[str, Any]) -> Table:
    """Some tolerances of the first window; the JSON has them all."""
    table = _table("Saving % by tolerance, first window (published)", "xi", *ZONES)
    found = {(row["region"], row["xi"]): row for row in result["xi_sweep"]}
    for xi in (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3):
        rows = [found[region, xi] for region in ZONES]
        table.add_row(
            f"{xi:.2f}",
            *(
                f"{row['saving_pct']:.1f}"
                + (f" ({row['published_saving_pct']:.1f})" if row["published_saving_pct"] else "")
                for row in rows
            ),
        )
    return table


def _off(sweep: list[dict[str, Any]]) -> str:
    known = [row for row in sweep if row["published_saving_pct"] is not None]
    if not known:
        return ""
    off = np.array([row["saving_pct"] - row["published_saving_pct"] for row in known])
    return (
        f"xi from {known[0]['xi']:.2f} to {known[-1]['xi']:.2f}, first window, {len(known)} "
        f"published points: our saving differs by {off.mean():+.1f} points on average "
        f"(mean size {abs(off).mean():.1f}, largest {abs(off).max():.1f})."
    )
