"""Correctness by rule: does an answer agree with its reference?"""

import json
import re
from collections.abc import Callable

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
# An option's letter, from the surest form to the weakest: "answer is (B)", "B)", "B". Of the
# first the last one counts, since a model may correct itself; of the others the first, since
# models name their choice before they discuss the rest.
_LETTERS = (
    (re.compile(r"(?i:answer(?: is)?):? *\(?([A-H])\b"), -1),
    (re.compile(r"\b([A-H])\)"), 0),
    (re.compile(r"\b([A-H])\b(?! [a-z])"), 0),
)
_WORD = re.compile(r"[^\W_]+")


def last_number(answer: str, references: list[str]) -> bool:
    """The last number in the answer equals a reference (gsm8k's rule)."""
    found = _NUMBER.findall(answer)
    if not found:
        return False
    value = float(found[-1].replace(",", ""))
    known = [number for r in references for number in _NUMBER.findall(r)[-1:]]
    return any(value == float(number.replace(",", "")) for number in known)


def option_letter(answer: str, references: list[str]) -> bool:
    """The option named, in the surest form that occurs, is a reference.

    An answer that names no letter is right if it contains a reference's text.
    """
    for form, place in _LETTERS:
        found = form.findall(answer)
        if found:
            return found[place] in references
    return contains(answer, [text for text in references if len(text) > 1])


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
        try:
            references = [str(item) for item in json.loads(reference)]
        except ValueError:
            pass  # a text that happens to begin so
    return float(RULES.get(task, contains)(answer, references))
