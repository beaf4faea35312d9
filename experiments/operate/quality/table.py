"""`sprout quality`: the quality of each task's answers, with intervals, and the guard's state."""

from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from experiments.console import table_console
from experiments.operate.on_ledger import OverPeriod
from experiments.settings import write_json
from serving.ledger.quality.store import QualityStore
from serving.quality.report import read_quality
from serving.quality.watch import describe

# Evidence counts from the last change of policy or level on, so a day would cut it short.
_HOURS = 30 * 24.0
_MOST_EVENTS = 10


class Quality(OverPeriod):
    """Show the quality of each task's answers relative to L0, and what the guard does about it.

    The period is 30 days unless it is given. Intervals hold at every look.
    """

    def cli_cmd(self) -> None:
        """Read the ledger, print the table, and write the result as JSON if asked to."""
        if self.since is None and self.hours is None:
            self.hours = _HOURS
        since, until = self.period()
        with closing(self.open()) as ledger:
            quality = read_quality(ledger, since, until)
            quality["events"] = QualityStore(ledger).events(since=since)
        if quality["cells"]:
            table_console(markup=False).print(_table(quality["cells"]))
        for line in _lines(quality):
            print(line)
        write_json(self.json_path, quality)


def _table(cells: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("task", "model", "zone", "floor", "guard"):
        table.add_column(name, no_wrap=name == "guard")
    for name in ("served", "95 %", "judged", "candidate", "95 %", "judged"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in cells:
        level = cell["level"]
        if level == "raised":
            level = f"raised to {cell['raised_floor']:.2f}"
        floor = "none" if cell["floor"] is None else f"{cell['floor']:g}"
        figures = [f for arm in ("served", "candidate") for f in _figures(cell[arm])]
        task = cell["task"] or "(untagged)"
        table.add_row(task, cell["model"], cell["zone"], floor, level, *figures)
    return table


def _figures(arm: dict[str, Any]) -> list[str]:
    if arm["ratio"] is None:
        return ["-", "-", str(arm["verdicts"])]
    low, high = arm["interval"]
    shown = f"[{low:.3f}, {'?' if high is None else f'{high:.3f}'}]"
    return [f"{arm['ratio']:.3f}", shown, str(arm["verdicts"])]


def _lines(quality: dict[str, Any]) -> list[str]:
    if not quality["cells"]:
        return ["no answer was judged in this period; name a judge with `sprout serve --judge`"]
    lines = ["served and candidate: quality relative to L0's answer to the same request"]
    for judge in quality["judges"]:
        results = ", ".join(f"{count} {name}" for name, count in sorted(judge["results"].items()))
        rubric = f" (rubric {judge['rubric']})" if judge["rubric"] else ""
        line = f"judge {judge['judge']}{rubric}: {results}"
        if judge["consistent_ratio"] is not None:
            line += f"; same verdict in both orders: {100 * judge['consistent_ratio']:.0f} %"
        lines.append(line)
    cost = quality["evaluation"]
    share = "unknown" if cost["energy_ratio"] is None else f"{100 * cost['energy_ratio']:.2f} %"
    judge_joules = cost["judge_joules"]
    judge = "unknown" if judge_joules is None else f"{judge_joules:.4g} J"
    lines.append(
        f"judging took {share} of the traffic's energy: {cost['answers_joules']:.4g} J "
        f"({cost['answers_grams']:.4g} gCO2e) for {cost['answers']} answers to compare with; "
        f"the judge's own: {judge}"
    )
    for event in quality["events"][-_MOST_EVENTS:]:
        when = datetime.fromtimestamp(event["time"], UTC).strftime("%Y-%m-%d %H:%M")
        lines.append(f"{when} {describe(event)}")
    return lines
