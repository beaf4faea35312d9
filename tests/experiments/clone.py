"""A synthetic clone in the layout of the SPROUT authors' repository."""

import json
from pathlib import Path
from typing import Any

LEVELS = {"": 500, "_brief": 100, "_brief+": 20}
SYSTEM = {"_brief": "Always answer briefly", "_brief+": "Always answer very briefly"}
STEMS = {
    "alpaca": "alpaca_5000",
    "math": "math_all",
    "mmlu": "mmlu_5000",
    "naturalqa": "naturalqa_5000",
    "triviaqa": "triviaqa_5000",
    "scienceqa": "scienceqa_5000",
}
# By data set: the question, the repository's reference answer, a right and a wrong model answer.
KINDS = {
    "alpaca": ("Write about {n}.", "A text about {n}.", "Here: {n}.", "No."),
    "math": ("What is {n} + 1?", "{n} + 1 = <<{n}+1=9>>9\n#### {m}", "So it is {m}.", "It is 0."),
    "mmlu": ("Pick {n}.\n(A): cat\n(B): dog", "B", "The answer is (B).", "(A)"),
    "naturalqa": ("who is {n}", "Person {n}; P{n}", "That is person {n}.", "Unknown."),
    "triviaqa": ("Name {n}?", "Nome {n}; N-{n}", "n {n}!", "Unknown."),
    "scienceqa": ("Is {n} so?\nChoices:\n(A): false\n(B): true", "true", "true", "(A): false"),
}
QUALITY = "prompt_sweeping/request_quality/auto_annotate"


def make(folder: Path, prompts: int = 12, judged: int = 8) -> Path:
    """Write a clone with `prompts` prompts per data set; the last `judged` of them are judged.

    L0 answers are right, brief ones are right for even n, and very brief ones are wrong. Only
    scienceqa has token counts. Returns `folder`.
    """
    summary = {}
    for dataset, (question, *_) in KINDS.items():
        questions = [question.format(n=n, m=n + 1) for n in range(prompts)]
        for level, tokens in LEVELS.items():
            _prompts(folder, dataset, level, questions)
            _measured(folder, dataset, f"{level}_13b", tokens, prompts)
            _answers(folder, dataset, f"{level}_13b", level, range(prompts - judged, prompts))
        _measured(folder, dataset, "_7b", 400, prompts)
        _answers(folder, dataset, "_7b", "", range(prompts - judged, prompts))
        judged_path = f"{QUALITY}/{dataset}/samples_2000_seed_0/correct_answer.json"
        write(
            folder / judged_path,
            [_entry(dataset, n, 1) for n in range(prompts - judged, prompts)],
        )
        summary[dataset] = [
            {"instruction": questions[n], "assistance_lvl": n % 3}
            for n in range(prompts - judged, prompts)
        ]
    write(folder / QUALITY / "quality_accessor/assessment_results/summary_2000.json", summary)
    return folder


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def change(path: Path, edit: Any) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def _prompts(folder: Path, dataset: str, level: str, questions: list[str]) -> None:
    system = [{"role": "system", "content": SYSTEM[level]}] if level else []
    write(
        folder / f"prompt_sweeping/prompts/prompt_{STEMS[dataset]}{level}.json",
        [[*system, {"role": "user", "content": text}] for text in questions],
    )


def _measured(folder: Path, dataset: str, name: str, tokens: int, prompts: int) -> None:
    counts = [tokens + n for n in range(prompts)]
    content = {
        "energy": [6.0 * count / 3.6e6 for count in counts],
        "co2": [0.0 for _ in counts],
        "time": [0.02 * count + 0.1 for count in counts],
    }
    if dataset == "scienceqa":
        content |= {"num_input_tokens": [30 for _ in counts], "num_output_tokens": counts}
    write(folder / f"prompt_sweeping/request_carbon/data/{STEMS[dataset]}{name}-chat.json", content)


def _answers(folder: Path, dataset: str, name: str, level: str, numbers: range) -> None:
    answers_path = f"{QUALITY}/{dataset}/samples_2000_seed_0/{STEMS[dataset]}{name}.json"
    right = {"": lambda n: True, "_brief": lambda n: n % 2 == 0, "_brief+": lambda n: False}
    write(folder / answers_path, [_entry(dataset, n, 2 if right[level](n) else 3) for n in numbers])


def _entry(dataset: str, n: int, column: int) -> dict[str, str]:
    texts = [text.format(n=n, m=n + 1) for text in KINDS[dataset]]
    return {"instruction": texts[0], "output": texts[column], "generator": "made"}
