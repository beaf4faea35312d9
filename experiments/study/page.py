"""The result page of an ablation, in Markdown."""

from collections.abc import Sequence
from pathlib import Path

from experiments.statistics import Interval
from experiments.study.tidy import Row, Summary


def write_page(
    path: Path, question: str, summary: Summary, rows: Sequence[Row], quality: str
) -> str:
    """Write and return the page: the question, one table row per variant, and how to read it."""
    seeds = sorted({row.seed for row in rows})
    lines = [
        f"# {question}",
        "",
        f"Floors on {quality}; {len(seeds)} seeds ({seeds[0]} to {seeds[-1]}), each evaluated "
        "on a fold of prompts that was held out from its training; 95% intervals over the runs.",
        "",
        "| variant | excess, points (IQM) | carbon saved % | quality / L0 | worst task - floor "
        "| P(better than the first) |",
        "|---|---|---|---|---|---|",
    ]
    for variant in summary.iqm:
        better = summary.better[variant]
        cells = (
            _cell(summary.iqm[variant], 2),
            _cell(summary.saving[variant], 1),
            _cell(summary.quality[variant], 3),
            _cell(summary.margin[variant], 3),
            "" if better is None else _cell(better, 2),
        )
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    lines += [
        "",
        "![figure](ablation.png)",
        "",
        "Excess is the carbon that a policy saves beyond the cheapest fixed mix of directives "
        "with the same quality, task by task (points of the task's L0 footprint); the table shows "
        "the interquartile mean over runs and tasks, with a stratified bootstrap. P(better) is "
        "the probability that a run of the variant has a larger excess than a run of the first "
        "variant, averaged over tasks.",
        "",
    ]
    page = "\n".join(lines)
    path.write_text(page, encoding="utf-8")
    return page


def _cell(interval: Interval, digits: int) -> str:
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
