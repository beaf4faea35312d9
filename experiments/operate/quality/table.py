"""`sprout quality`: the quality of each task's answers, with intervals, and the guard's state."""

from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from pydantic import Field
from rich.table import Table

from envs.errors import ConfigError
from experiments.console import table_console
from experiments.operate.on_ledger import OverPeriod
from experiments.settings import write_json
from serving.ledger.database import Ledger
from serving.ledger.quality.store import QualityStore
from serving.quality.guard import Guard
from serving.quality.report import read_length_control, read_quality
from serving.quality.signs import read_signs
from serving.quality.watch import describe
from serving.settings.hook import CommaSeparated

# Evidence counts from the last change of policy or level on, so a day would cut it short.
_HOURS = 30 * 24.0
_MOST_EVENTS = 10


class Quality(OverPeriod):
    """Show the quality of each task's answers relative to L0, and what the guard does about it.

    The period is 30 days unless it is given. Intervals hold at every look.
    """

    release: CommaSeparated = Field(
        [],
        description="tasks to be served as asked again, whatever the guard found; untagged for the "
        "requests without a tag",
    )

    def cli_cmd(self) -> None:
        """Read the ledger, print the table, and write the result as JSON if asked to."""
        if self.since is None and self.hours is None:
            self.hours = _HOURS
        since, until = self.period()
        with closing(self.open()) as ledger:
            self._release(ledger)
            quality = read_quality(ledger, since, until)
            quality["length_control"] = read_length_control(ledger, since, until)
            quality["signs"] = read_signs(ledger, since, until)
            quality["events"] = QualityStore(ledger).events(since=since)
        if quality["cells"]:
            table_console(markup=False).print(_table(quality["cells"]))
        for line in [*_lines(quality), *_signs(quality["signs"])]:
            print(line)
        write_json(self.json_path, quality)

    def _release(self, ledger: Ledger) -> None:
        if not self.release:
            return
        tasks = ["" if task == "untagged" else task for task in self.release]
        released = Guard(QualityStore(ledger), lambda cell, floor: False).release(tasks)
        if not released:
            raise ConfigError(
                f"--release {', '.join(self.release)}: the guard has moved no such task"
            )
        for cell in released:
            print(f"{cell.task or 'untagged'} ({cell.model}, {cell.zone}): steered as asked again")


def _table(cells: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("task", "model", "zone", "floor", "guard"):
        table.add_column(name, overflow="fold")
    for name in ("served", "95 %", "judged", "candidate", "95 %", "judged"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in cells:
        level = cell["level"]
        if level in ("raised", "eased"):
            level = f"{level} to {cell['priced_floor']:.2f}"
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
    lines += [_agreement(each) for each in quality["agreement"] if each["task"] is None]
    lines += [
        f"judge {each['judge']}: finds {each['recognised']} of {each['pairs']} answers to other "
        "requests worse than the right ones"
        for each in quality["controls"]
    ]
    lines += [_length_control(each) for each in quality["length_control"]]
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


def _signs(signs: dict[str, Any]) -> list[str]:
    """Return in words how the arms' signs differ, and how satisfaction goes with scores."""
    lines = []
    for task, of_task in signs["tasks"].items():
        name = task or "untagged"
        if not of_task["held_out_draws"]:
            lines.append(f"signs, {name}: no conversation is held out to compare with")
            continue
        parts = []
        for sign, figures in of_task["signs"].items():
            low, high = (100 * bound for bound in figures["interval"])
            policy, l0 = (100 * (figures[arm] or 0.0) for arm in ("policy", "l0"))
            if not policy and not l0:
                continue
            shown = f"{sign} {policy:.1f} % against {l0:.1f} %"
            parts.append(f"{shown} [{low:+.1f}, {high:+.1f}]" if low > 0 or high < 0 else shown)
        lines.append(
            f"signs, {name} ({of_task['draws']} conversations, {of_task['held_out_draws']} held "
            f"out): {', '.join(parts) or 'none seen'}"
        )
    for row in signs["satisfaction"]:
        if row["correlation"] is not None:
            low, high = row["interval"]
            lines.append(
                f"{row['judge']} and {row['sign']}, {row['task'] or 'untagged'}: correlation "
                f"{row['correlation']:.2f} [{low:.2f}, {high:.2f}] over {row['answers']} answers"
            )
    return lines


def _agreement(row: dict[str, Any]) -> str:
    """Return a judge's agreement with people in words."""
    line = f"judge {row['judge']} and people: {row['pairs']} pairs"
    if row["kappa"] is None:
        return f"{line}, too few or too much alike for a kappa"
    line += f", kappa {row['kappa']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
    line += f", favours the judged answers by {100 * row['bias']:.1f} points"
    return line + (" (biased)" if row["favours"] or row["disfavours"] else "")


def _length_control(row: dict[str, Any]) -> str:
    """Return a judge's preference in words."""
    shown = [
        "unknown without pairs that a reference knows to be right"
        if rate is None
        else f"{100 * rate[0]:.1f} % [{100 * rate[1]:.1f}, {100 * rate[2]:.1f}]"
        for rate in (row["raw"], row["controlled"])
    ]
    return (
        f"judge {row['judge']} prefers the judged answers: {shown[0]}; at equal length {shown[1]}"
    )
