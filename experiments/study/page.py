"""An ablation's page in Markdown."""

from collections.abc import Sequence
from pathlib import Path

from experiments.statistics import Interval
from experiments.study.tidy import Row, Summary


def write_page(
    path: Path, question: str, summary: Summary, rows: Sequence[Row], quality: str
) -> str:
    """Write and return the page: the question, one line a variant, how to read it."""
    seeds = sorted({row.seed for row in rows})
    lines = [
        f"# {question}",
        "",
        f"Floors on {quality}; {len(seeds)} seeds ({seeds[0]} to {seeds[-1]}), each judged on a "
        "fold of prompts that it never saw; 95% intervals over the runs.",
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
        "Excess is what a policy saves beyond the cheapest mix of directives at the quality that "
        "it reached, task by task (points of the task's L0 footprint), as an interquartile mean "
        "over runs and tasks with a stratified bootstrap. P(better) is the probability that a "
        "run of the variant has more of it than one of the first variant, averaged over tasks.",
        "",
    ]
    page = "\n".join(lines)
    path.write_text(page, encoding="utf-8")
    return page


def _cell(found: Interval, digits: int) -> str:
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"
