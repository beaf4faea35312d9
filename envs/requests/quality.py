"""Rules that decide whether an answer agrees with its reference."""

import json
import re
from collections import Counter
from collections.abc import Callable

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
# Forms of an option's letter, from the most to the least certain: "answer is (B)", "B)", "B",
# with the index of the match that counts. It is the last one for "answer is", because a model
# may correct itself. It is the first one otherwise, because a model names its choice before it
# discusses the other options.
_LETTERS = (
    (re.compile(r"(?i:answer(?: is)?):? *\(?([A-H])\b"), -1),
    (re.compile(r"\b([A-H])\)"), 0),
    (re.compile(r"\b([A-H])\b(?! [a-z])"), 0),
)
_WORD = re.compile(r"[^\W_]+")
_ARTICLES = ("a", "an", "the")
_FENCED = re.compile(r"```(?:json)?\s*\n(?P<body>.*?)\n?```", re.DOTALL)


def last_number(answer: str, references: list[str]) -> bool:
    """Return whether the last number in the answer equals a reference's (gsm8k's rule)."""
    numbers = _NUMBER.findall(answer)
    if not numbers:
        return False
    value = float(numbers[-1].replace(",", ""))
    expected = [number for r in references for number in _NUMBER.findall(r)[-1:]]
    return any(value == float(number.replace(",", "")) for number in expected)


def option_letter(answer: str, references: list[str]) -> bool:
    """Return whether the option letter that the answer names is a reference.

    The letter is read from the most certain form that occurs in the answer. An answer without
    a letter is correct if it contains a reference's text.
    """
    for form, index in _LETTERS:
        letters = form.findall(answer)
        if letters:
            return letters[index] in references
    return contains(answer, [text for text in references if len(text) > 1])


def last_word(answer: str, references: list[str]) -> bool:
    """Return whether the answer's last word equals a reference, ignoring case."""
    words = _WORD.findall(answer.lower())
    return bool(words) and words[-1] in [r.lower() for r in references]


def contains(answer: str, references: list[str]) -> bool:
    """Return whether any reference occurs in the answer as whole words, ignoring case."""
    words = " ".join(_WORD.findall(answer.lower()))
    return any(
        f" {' '.join(_WORD.findall(reference.lower()))} " in f" {words} "
        for reference in references
    )


def exact(answer: str, references: list[str]) -> bool:
    """Return whether the answer is a reference, but for case, punctuation and articles (SQuAD)."""
    return _plain_words(answer) in [_plain_words(reference) for reference in references]


def token_f1(answer: str, references: list[str]) -> float:
    """Return the greatest F1 score of the answer's words against a reference's, 0..1.

    SQuAD's measure (Rajpurkar et al., 2016, section 6.1, https://arxiv.org/abs/1606.05250).
    """
    return max((_f1(_plain_words(answer), _plain_words(r)) for r in references), default=0.0)


def valid_json(answer: str, references: list[str]) -> bool:
    """Return whether the answer is JSON, alone or in one fenced block; references do not matter."""
    fenced = _FENCED.fullmatch(answer.strip())
    try:
        json.loads(answer if fenced is None else fenced["body"])
    except ValueError:
        return False
    return True


def _plain_words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.lower()) if word not in _ARTICLES]


def _f1(words: list[str], expected: list[str]) -> float:
    shared = (Counter(words) & Counter(expected)).total()
    return 2 * shared / (len(words) + len(expected)) if shared else 0.0


RULES: dict[str, Callable[[str, list[str]], float]] = {
    "arithmetic": last_number,
    "gsm8k": last_number,
    "choice": option_letter,
    "mmlu": option_letter,
    "scienceqa": option_letter,
    "sequence": last_word,
    "exact": exact,
    "token_f1": token_f1,
    "json": valid_json,
}


def correctness(task: str, answer: str, reference: str | None) -> float:
    """Return the answer's score by the task's rule, 0..1; NaN without reference.

    Most rules give 1 to a correct answer and 0 to any other one.

    Tasks that are not in RULES use `contains`. A reference that is a JSON list holds
    alternatives; the answer has to agree with one of them.
    """
    if reference is None:
        return float("nan")
    references = [reference]
    if reference.startswith("["):
        try:
            references = [str(item) for item in json.loads(reference)]
        except ValueError:
            pass  # not JSON, but a plain text that begins with "["
    return float(RULES.get(task, contains)(answer, references))
