"""Correctness by rule: does an answer agree with its reference?"""

import json
import re
from collections.abc import Callable

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_LETTER = re.compile(r"\b([A-Z])\b")
_WORD = re.compile(r"[^\W_]+")


def last_number(answer: str, references: list[str]) -> bool:
    """The last number in the answer equals a reference (gsm8k's rule)."""
    found = _NUMBER.findall(answer)
    if not found:
        return False
    value = float(found[-1].replace(",", ""))
    return any(value == float(r.replace(",", "")) for r in references)


def option_letter(answer: str, references: list[str]) -> bool:
    """The last capital letter standing alone is a reference (multiple choice)."""
    found = _LETTER.findall(answer)
    return bool(found) and found[-1] in references


def last_word(answer: str, references: list[str]) -> bool:
    """The last word equals a reference, whatever its case."""
    found = _WORD.findall(answer.lower())
    return bool(found) and found[-1] in [r.lower() for r in references]


def contains(answer: str, references: list[str]) -> bool:
    """Any reference occurs in the answer as whole words, whatever its case."""
    words = " ".join(_WORD.findall(answer.lower()))
    return any(
        f" {' '.join(_WORD.findall(reference.lower()))} " in f" {words} "
        for reference in references
    )


RULES: dict[str, Callable[[str, list[str]], bool]] = {
    "arithmetic": last_number,
    "gsm8k": last_number,
    "choice": option_letter,
    "mmlu": option_letter,
    "scienceqa": option_letter,
    "sequence": last_word,
}


def correctness(task: str, answer: str, reference: str | None) -> float:
    """1.0 or 0.0 by the task's rule (`contains` for tasks not in RULES); NaN without reference.

    A reference that is a JSON list holds alternatives, any of which will do.
    """
    if reference is None:
        return float("nan")
    references = [reference]
    if reference.startswith("["):
        parsed = json.loads(reference)
        references = [str(item) for item in parsed]
    return float(RULES.get(task, contains)(answer, references))
