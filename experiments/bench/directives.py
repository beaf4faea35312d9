"""`sprout bench directives`: tokens and accuracy of each directive, by task and difficulty."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from agents.methods.linear_program import best_fixed_mix
from envs.arrays import Float64Array
from envs.backends.live import LiveBackend
from envs.energy.meters.choose import choose_meter
from envs.outcomes.profile import Profile
from envs.requests.directive import DEFAULT_CATALOGUE
from envs.requests.tasks import CELLS, MODULES
from envs.requests.workload import generate_requests
from envs.upstream import Upstream
from experiments.llama.server import EMBEDDED, llama_server
from experiments.record.profile import record
from experiments.settings import Settings, write_json

# Markers of the table in a model card.
BEGIN, END = "<!-- directives -->", "<!-- /directives -->"


class DirectivesBench(Settings):
    """Measure tokens and accuracy by task, difficulty and directive on the live server."""

    out: Path = Field(Path("runs/bench-directives"), description="folder for the profile")
    model: str = Field(str(EMBEDDED), description="folder with weights or Hugging Face name")
    per_cell: int = Field(300, ge=1, description="requests per task and difficulty")
    floor: float = Field(
        0.95, ge=0, le=1, description="quality floor of every task, relative to no directive"
    )
    seed: int = 77
    card: Path | None = Field(None, description="model card in which to rewrite the table")
    json_path: Path | None = Field(
        None, alias="json", description="write the result as JSON to this file"
    )

    def cli_cmd(self) -> None:
        """Record a profile, print its table and figures, and write the files asked for."""
        self.save(self.out)
        requests = generate_requests(self.per_cell, self.seed, by_cell=True)
        with (
            llama_server(self.model, log=self.out / "llama.log") as server,
            Upstream(server.url, server.model) as upstream,
        ):
            backend = LiveBackend(upstream, choose_meter(server.url), DEFAULT_CATALOGUE, requests)
            profile = record(
                backend, DEFAULT_CATALOGUE, server.model, self.out / "directives.parquet"
            )
        text = table(profile, self.per_cell) + "\n\n" + verdict(profile, self.floor)
        print(text)
        write_json(self.json_path, figures(profile, self.floor))
        if self.card is not None:
            _rewrite(self.card, text)


def _cells(profile: Profile) -> dict[tuple[str, int], Any]:
    """Return a mask of the profile's requests, shape (R,), for each task and difficulty."""
    keys = [(r.task, r.difficulty) for r in profile.requests]
    return {cell: np.array([key == cell for key in keys]) for cell in CELLS}


def table(profile: Profile, per_cell: int) -> str:
    """Return a Markdown table of mean tokens and accuracy by task, difficulty and directive."""
    names = profile.directives
    lines = [
        f"Greedy decoding, {per_cell} requests a cell; tokens / accuracy.",
        "",
        "| task | difficulty | " + " | ".join(names) + " |",
        "|---|---|" + "---|" * len(names),
    ]
    for (task, difficulty), rows in _cells(profile).items():
        tokens = profile.outcomes.completion_tokens[rows].mean(axis=0)
        correct = profile.outcomes.correct[rows].mean(axis=0)
        cells = " | ".join(f"{t:.1f} / {c:.2f}" for t, c in zip(tokens, correct, strict=True))
        lines.append(f"| {task} | {difficulty} | {cells} |")
    return "\n".join(lines)


def figures(profile: Profile, floor: float) -> dict[str, Any]:
    """Return the quality of each fixed directive, and the tokens of two references.

    The references are the best fixed mix and the best directive for each task and difficulty,
    both with every task at or above `floor`. All tasks have equal weight, and so have all
    difficulties within a task.
    """
    tasks = tuple(MODULES)
    cells = _cells(profile)
    tokens = {c: profile.outcomes.completion_tokens[rows].mean(axis=0) for c, rows in cells.items()}
    correct = {c: profile.outcomes.correct[rows].mean(axis=0) for c, rows in cells.items()}

    def of_task(values: dict[tuple[str, int], Float64Array], task: str) -> Float64Array:
        """Return the mean over the difficulties of `task`, shape (directives,)."""
        mean: Float64Array = np.mean([v for (t, _), v in values.items() if t == task], axis=0)
        return mean

    cost = np.stack([of_task(tokens, t) for t in tasks])
    quality = np.stack([of_task(correct, t) for t in tasks])
    mix = best_fixed_mix(cost, quality, np.array(tasks), dict.fromkeys(tasks, floor))
    best_choices = [_best_choice(task, tokens, correct, floor) for task in tasks]
    return {
        "ratio_by_fixed_directive": {
            name: {t: float(w[i] / w[0]) for t, w in zip(tasks, quality, strict=True)}
            for i, name in enumerate(profile.directives)
        },
        "tokens_l0": float(cost[:, 0].mean()),
        "best_fixed_mix": [float(x) for x in mix],
        "tokens_best_fixed_mix": float((cost @ mix).mean()),
        "tokens_best_choice": float(np.mean([mean_tokens for mean_tokens, _ in best_choices])),
        "best_choice": {
            t: list(choice) for t, (_, choice) in zip(tasks, best_choices, strict=True)
        },
    }


def _best_choice(
    task: str,
    tokens: dict[tuple[str, int], Float64Array],
    correct: dict[tuple[str, int], Float64Array],
    floor: float,
) -> tuple[float, tuple[int, ...]]:
    """Return the cheapest choice of one directive per difficulty that keeps the task's floor.

    Returns:
        Mean tokens of the choice, and the index of its directive for each difficulty.
    """
    cells = [cell for cell in tokens if cell[0] == task]
    least_correct = floor * np.mean([correct[cell][0] for cell in cells])
    choices = itertools.product(range(len(tokens[cells[0]])), repeat=len(cells))
    return min(
        (float(np.mean([tokens[c][d] for c, d in zip(cells, choice, strict=True)])), choice)
        for choice in choices
        if np.mean([correct[c][d] for c, d in zip(cells, choice, strict=True)]) >= least_correct
    )


def verdict(profile: Profile, floor: float) -> str:
    """Return the figures of a profile as Markdown sentences."""
    result = figures(profile, floor)
    lines = ["Accuracy relative to `none`, by task, of each directive used for everything:", ""]
    for name, ratios in result["ratio_by_fixed_directive"].items():
        lines.append(f"- `{name}`: " + ", ".join(f"{t} {r:.2f}" for t, r in ratios.items()))
    mix = ", ".join(f"{100 * x:.0f}%" for x in result["best_fixed_mix"])
    ratio = result["tokens_best_choice"] / result["tokens_best_fixed_mix"]
    lines += [
        "",
        f"The best fixed mix that keeps {floor:g} of every task ({mix}) needs "
        f"{result['tokens_best_fixed_mix']:.1f} tokens per request;",
        f"the best choice by task and difficulty needs {result['tokens_best_choice']:.1f}, "
        f"a ratio of {ratio:.2f}.",
    ]
    return "\n".join(lines)


def _rewrite(card: Path, text: str) -> None:
    """Replace the text between the markers of a model card."""
    before, _, rest = card.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    card.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
