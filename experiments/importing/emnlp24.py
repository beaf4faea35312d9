"""`sprout import emnlp24-sprout`: import an unmodified clone of the SPROUT authors' repository.

https://github.com/boringlee24/EMNLP24_Sprout (MIT), folder `prompt_sweeping`.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg

from envs.errors import DataError
from envs.outcomes.profile import profile_table, write_profile
from envs.outcomes.profile_reader import check_table
from envs.requests.quality import correctness
from experiments.importing.layout import (
    DATASETS,
    LEVELS,
    MODELS,
    RUNS,
    Chat,
    Clone,
    Measured,
    user_text,
)
from experiments.settings import Settings

_OPTION = re.compile(r"^\(([A-H])\):(.*?)(?=^\([A-H]\):|\Z)", re.MULTILINE | re.DOTALL)


class ImportEmnlp24Sprout(Settings):
    """Write a profile from a clone of the SPROUT authors' repository.

    Requests that were not measured, answered and judged under all three directives are left
    out, and their number is printed. As in the repository, energy and seconds come from one run
    of a prompt and directive, answers and verdicts from another run of the same pair.
    """

    path: CliPositionalArg[Path] = Field(description="folder of the clone")
    out: Path = Field(description="profile to write (Parquet)")

    def cli_cmd(self) -> None:
        """Read the clone, check the outcomes and write the profile."""
        clone = Clone(self.path)
        lines = Lines.fitted(clone)
        incomplete: Counter[str] = Counter()
        rows = [row for dataset in DATASETS for row in rows_of(clone, dataset, lines, incomplete)]
        if not rows:
            raise DataError(
                self.path,
                "no request was measured, answered and judged",
                "give a complete clone of the authors' repository",
            )
        # Checked before writing, so that a failed import leaves the file at --out unchanged.
        profile = check_table(self.path, profile_table(rows), MODELS["13b"], tuple(LEVELS))
        write_profile(self.out, rows)
        print(
            f"{len(profile.requests)} requests x {len(profile.directives)} directives of "
            f"{profile.model} in {self.out}; joules {profile.outcomes.energy_method}, tokens "
            f"{profile.tokens_method}"
        )
        for reason, count in incomplete.most_common():
            print(f"  incomplete: {count} {reason}")


@dataclass(frozen=True)
class Lines:
    """Straight lines that estimate token counts for files without counts.

    Attributes:
        completion: (tokens per second, tokens at 0 s) by model size, fitted to the files of
            that model that have counts.
        prompt: (tokens per character, tokens at 0 characters) of a chat.
    """

    completion: dict[str, tuple[float, float]] = field(default_factory=dict)
    prompt: tuple[float, float] = (0.25, 0.0)

    @classmethod
    def fitted(cls, clone: Clone) -> "Lines":
        """Fit the lines to all files with token counts.

        Raises:
            DataError: no file of the clone has counts.
        """
        seconds: dict[str, list[float]] = {size: [] for size in MODELS}
        tokens: dict[str, list[int]] = {size: [] for size in MODELS}
        characters: list[int] = []
        prompt_tokens: list[int] = []
        for dataset in DATASETS:
            for size, level in RUNS:
                measured = clone.measured(dataset, size, level)
                if measured.output_tokens:
                    seconds[size] += measured.seconds[: len(measured.output_tokens)]
                    tokens[size] += measured.output_tokens
                if measured.input_tokens:
                    chats = clone.chats(dataset, level)
                    characters += [_characters(c) for c in chats[: len(measured.input_tokens)]]
                    prompt_tokens += measured.input_tokens
        completion = {
            size: _line(seconds[size], tokens[size]) for size in MODELS if len(tokens[size]) > 1
        }
        if not completion:
            raise DataError(
                clone.folder,
                "no file has num_output_tokens",
                "give a complete clone of the authors' repository",
            )
        prompt = _line(characters, prompt_tokens) if len(prompt_tokens) > 1 else cls.prompt
        return cls(completion, prompt)

    def completion_tokens(self, size: str, seconds: float) -> int:
        """Return the estimated number of generated tokens, at least 1."""
        slope, start = self.completion.get(size) or next(iter(self.completion.values()))
        return max(1, round(slope * seconds + start))

    def prompt_tokens(self, chat: Chat) -> int:
        """Return the estimated number of tokens of a chat, at least 1."""
        slope, start = self.prompt
        return max(1, round(slope * _characters(chat) + start))


def rows_of(
    clone: Clone, dataset: str, lines: Lines, incomplete: "Counter[str]"
) -> Iterator[dict[str, Any]]:
    """Yield the profile rows of a data set.

    Args:
        incomplete: counter of the requests with missing parts, by reason; updated in place.
    """
    task = DATASETS[dataset].task
    index_of = clone.places(dataset)
    answers = {run: clone.answers(dataset, *run) for run in RUNS}
    measured = {run: clone.measured(dataset, *run) for run in RUNS}
    references = clone.references(dataset)
    verdicts = clone.verdicts(dataset)
    for prompt, verdict in verdicts.items():
        index = index_of.get(prompt)
        if index is None:
            incomplete[f"{dataset}: judged, but not among the prompts"] += 1
            continue
        large = [run for run in RUNS if run[0] == "13b"]
        if any(prompt not in answers[run] for run in large):
            incomplete[f"{dataset}: judged, but without an answer under every directive"] += 1
            continue
        if any(index >= len(measured[run].joules) for run in large):
            incomplete[f"{dataset}: judged, but not measured under every directive"] += 1
            continue
        reference = _reference(task, prompt, references.get(prompt))
        if reference is None and task != "alpaca":
            incomplete[f"{dataset}: imported, but correctness unknown without a reference"] += 1
        digest = hashlib.sha256(prompt.encode()).hexdigest()[:16]
        for run in RUNS:
            size, level = run
            if prompt not in answers[run] or index >= len(measured[run].joules):
                continue
            answer = answers[run][prompt]
            score = correctness(task, answer, reference)
            chat = clone.chats(dataset, level)[index]
            if user_text(chat) != prompt:
                raise DataError(
                    clone.folder / clone.prompts(dataset, level),
                    f"entry {index} has another prompt than the file without a directive",
                    "give files with their prompts in the same order",
                )
            yield {
                "request_id": f"{dataset}-{digest}",
                "task": task,
                "model": MODELS[size],
                "directive": level,
                "messages": json.dumps(
                    [m for m in chat if m["role"] != "system"], ensure_ascii=False, sort_keys=True
                ),
                "reference": reference,
                "response": answer,
                "energy_method": "measured",
                "preference": float(level == verdict) if size == "13b" else None,
                "correct": None if np.isnan(score) else score,
                **_costs(measured[run], index, size, chat, lines),
            }


def _costs(measured: Measured, index: int, size: str, chat: Chat, lines: Lines) -> dict[str, Any]:
    has_counts = index < len(measured.output_tokens) and index < len(measured.input_tokens)
    seconds = measured.seconds[index]
    return {
        "prompt_tokens": measured.input_tokens[index] if has_counts else lines.prompt_tokens(chat),
        "completion_tokens": measured.output_tokens[index]
        if has_counts
        else lines.completion_tokens(size, seconds),
        "tokens_method": "counted" if has_counts else "derived",
        "energy_joules": measured.joules[index],
        "latency_seconds": seconds,
        "device_seconds": seconds,
    }


def _reference(task: str, prompt: str, answer: str | None) -> str | None:
    """Return an answer in the form that `envs.requests.quality` takes; None if no rule applies."""
    if answer is None or task == "alpaca":
        return None
    if task in ("nq_open", "triviaqa"):
        return json.dumps([alias for alias in answer.split("; ") if alias], ensure_ascii=False)
    if task in ("mmlu", "scienceqa"):
        options = dict(_options(prompt))
        if answer in options:
            return json.dumps([answer, options[answer]], ensure_ascii=False)
        letters = [letter for letter, text in options.items() if text.split() == answer.split()]
        return json.dumps([letters[0], answer.strip()], ensure_ascii=False) if letters else None
    return answer


def _options(prompt: str) -> Iterator[tuple[str, str]]:
    """Yield letter and text of each option in a prompt; a text may have several lines."""
    for letter, text in _OPTION.findall(prompt):
        yield letter, text.strip()


def _characters(chat: Chat) -> int:
    return sum(len(message["content"]) for message in chat)


def _line(inputs: list[Any], outputs: list[Any]) -> tuple[float, float]:
    """Fit a straight line; return its slope and its value at 0."""
    slope, start = np.polyfit(np.array(inputs, dtype=float), np.array(outputs, dtype=float), 1)
    return float(slope), float(start)
