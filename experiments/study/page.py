"""The result page of an ablation, in Markdown, with the conclusions that its numbers allow."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.statistics import FEWEST_RUNS, Interval
from experiments.study.data import Data
from experiments.study.tidy import Row, Summary


def write_page(path: Path, question: str, summary: Summary, rows: Sequence[Row], data: Data) -> str:
    """Write and return the page: the question, conclusions, tables, and how to read them."""
    reference, *others = summary.excess
    seeds = sorted({row.seed for row in rows})
    folds = sorted({row.fold for row in rows})
    lines = [
        f"# {question}",
        "",
        f"Floors on {data.quality}; {summary.pairs} runs of each variant, seeds {seeds[0]} to "
        f"{seeds[-1]}, each evaluated on one of {len(folds)} folds of the prompts, on "
        f"{data.held_out}. A seed is judged on one fold, so the spread over runs is that of seeds "
        "and of prompts together.",
        "",
        "## What the numbers allow to say",
        "",
        *(_conclusion(name, reference, summary.against[name], summary.pairs) for name in others),
        "",
        f"## Difference to {reference}, run by run",
        "",
        f"| variant | excess, points | carbon saved, points | {_QUALITY} |",
        "|---|---|---|---|---|---|---|",
        *(_row(name, summary.against[name], "+") for name in others),
        "",
        "## Each variant",
        "",
        f"| variant | excess, points | carbon saved % | {_QUALITY} | excess, IQM |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in summary.excess:
        means = {measure: getattr(summary, measure)[name] for measure in _DIGITS}
        lines.append(f"{_row(name, means)} {summary.iqm[name].text(2)} |")
    lines += [
        "",
        "![figure](ablation.png)",
        "",
        "Excess is the carbon that a policy saves beyond the cheapest fixed mix of directives "
        "with the same quality, task by task (points of the task's L0 footprint), in the mean "
        "over tasks and runs; IQM is its interquartile mean, with a stratified bootstrap. The "
        "other intervals are 95 % t intervals over runs; a difference is taken between the runs "
        "with the same seed and fold. Runs that all have the same figure give no interval.",
        "",
    ]
    page = "\n".join(lines)
    path.write_text(page, encoding="utf-8")
    return page


_DIGITS = {"excess": 2, "saving": 1, "quality": 3, "margin": 3, "cell": 3, "missed": 1}
_QUALITY = (
    "quality / L0 (pooled) | worst task - floor (pooled) | worst task in a zone - floor | floors "
    "missed by zone"
)
_WORDS = {
    "excess": ("gains {} points of excess", "loses {} points of excess"),
    "saving": ("saves {} points more carbon", "saves {} points less carbon"),
    "quality": ("keeps {} more of L0's quality", "keeps {} less of L0's quality"),
    "margin": (
        "leaves its worst task {} higher against its floor",
        "leaves its worst task {} lower against its floor",
    ),
    "cell": (
        "leaves its worst task in a zone {} higher against its floor",
        "leaves its worst task in a zone {} lower against its floor",
    ),
    "missed": (
        "misses {} floors by task and zone more",
        "misses {} floors by task and zone less",
    ),
}


def _row(name: str, intervals: Mapping[str, Interval], sign: str = "") -> str:
    cells = (intervals[measure].text(digits, sign) for measure, digits in _DIGITS.items())
    return f"| {name} | {' | '.join(cells)} |"


def _conclusion(name: str, reference: str, against: Mapping[str, Interval], runs: int) -> str:
    """Return one sentence: in what a variant differs from the reference, and in what not."""
    if runs < FEWEST_RUNS:
        return (
            f"- **{name}**: fewer than {FEWEST_RUNS} runs, so nothing is said about its "
            f"difference to {reference}."
        )
    told, same = [], []
    for measure, digits in _DIGITS.items():
        interval = against[measure]
        words = _WORDS[measure][0 if interval.value > 0 else 1]
        if interval.sign:
            told.append(words.format(_size(interval, digits)))
        elif not interval.is_known and abs(interval.value) > 1e-12:
            size = f"{abs(interval.value):.{digits}f}"
            told.append(f"{words.format(size)} in every run, so without an interval")
        else:
            same.append(measure)
    sentence = f"- **{name}**"
    if told:
        sentence += f" {', '.join(told)}, compared with {reference}"
    if same:
        sentence += (
            f"{'; it' if told else ''} cannot be told apart from {reference} by "
            f"{', '.join(_NAMES[measure] for measure in same)}"
        )
    return f"{sentence}."


_NAMES = {
    "excess": "excess",
    "saving": "carbon saved",
    "quality": "quality",
    "margin": "its worst task",
    "cell": "its worst task in a zone",
    "missed": "floors missed by zone",
}


def _size(interval: Interval, digits: int) -> str:
    low, high = sorted((abs(interval.low), abs(interval.high)))
    return f"{abs(interval.value):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
