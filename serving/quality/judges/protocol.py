"""Judges of answers: what they are asked and say, and the one that knows the right answers."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import orjson

from envs.errors import DataError
from envs.requests.directive import Message
from envs.requests.quality import correctness
from serving.ledger.quality.verdict import BETTER, NO_VERDICT, TIE, WORSE

_FIELDS = ("prompt", "task", "reference")


@dataclass(frozen=True, slots=True)
class Opinion:
    """A judge's opinion of an answer, in comparison with L0's.

    Attributes:
        result: "better", "worse", "tie" or "no_verdict".
        quality, l0_quality: quality of the two answers, 0..1; None without a verdict.
        consistent: whether a judge that saw the answers in both orders gave one verdict; None if
            it did not see both.
        tokens: tokens that the judge read and wrote; None if unknown.
    """

    result: str
    quality: float | None
    l0_quality: float | None
    consistent: bool | None = None
    tokens: int | None = None


def compared(result: str, consistent: bool | None = None, tokens: int | None = None) -> Opinion:
    """Return the opinion of a judge that only compares.

    An answer's quality is 1 if it is as good as the other one or better, else 0. So ten answers
    of which one is worse than L0's, the others equal, keep 0.9 of L0's quality.
    """
    if result == NO_VERDICT:
        return Opinion(result, None, None, consistent, tokens)
    quality, l0_quality = float(result != WORSE), float(result != BETTER)
    return Opinion(result, quality, l0_quality, consistent, tokens)


class Judge(Protocol):
    """Compares an answer with L0's answer to the same request.

    Attributes:
        name: the judge's name in verdicts.
        rubric: version of its rubric; None if it has none.
    """

    name: str
    rubric: str | None

    def knows(self, messages: Sequence[Message]) -> bool:
        """Return whether the judge has an opinion on such requests."""

    def compare(self, messages: Sequence[Message], answer: str, l0: str) -> Opinion | None:
        """Return the judge's opinion, or None if it has none on such requests.

        Args:
            messages: the request's messages.
            answer: the answer to judge.
            l0: L0's answer.

        Raises:
            SproutError: the judge does not answer.
        """


class Reference(NamedTuple):
    """The right answer to a prompt.

    Attributes:
        task: names the rule (`envs.requests.quality.RULES`).
        text: the answer, or a JSON list of alternatives.
    """

    task: str
    text: str


class ReferenceJudge:
    """Scores both answers to a prompt whose right answer is known, by the task's rule.

    Args:
        references: right answers by `prompt_key`.
    """

    name = "reference"
    rubric: str | None = None

    def __init__(self, references: Mapping[str, Reference]) -> None:
        self._references = references

    def knows(self, messages: Sequence[Message]) -> bool:
        """Return whether the right answer is known."""
        return prompt_key(last_question(messages)) in self._references

    def compare(self, messages: Sequence[Message], answer: str, l0: str) -> Opinion | None:
        """Return the scores of both answers; None if no reference is known."""
        reference = self._references.get(prompt_key(last_question(messages)))
        if reference is None:
            return None
        score, l0_score = (correctness(reference.task, a, reference.text) for a in (answer, l0))
        result = TIE if score == l0_score else BETTER if score > l0_score else WORSE
        return Opinion(result, score, l0_score, tokens=0)


def read_references(path: Path) -> dict[str, Reference]:
    """Return the right answers in a file of JSON lines with `prompt`, `task` and `reference`.

    Raises:
        DataError: the file cannot be read, or a line is wrong.
    """
    remedy = "give one JSON object a line, with the texts prompt, task and reference"
    references = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", remedy) from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            prompt, task, reference = (orjson.loads(line)[name] for name in _FIELDS)
            if not all(isinstance(text, str) and text for text in (prompt, task, reference)):
                raise TypeError
        except (ValueError, TypeError, KeyError):
            raise DataError(f"{path}, line {number}", "is no reference", remedy) from None
        references[prompt_key(prompt)] = Reference(task, reference)
    return references


def prompt_key(prompt: str) -> str:
    """Return a prompt's digest; blanks at its ends do not count."""
    return hashlib.sha256(prompt.strip().encode()).hexdigest()


def text_of(message: Message) -> str:
    """Return a message's text; of a message in parts, the texts of its parts."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def last_question(messages: Sequence[Message]) -> str:
    """Return the user's last message; an empty text if there is none."""
    users = [message for message in messages if message.get("role") == "user"]
    return text_of(users[-1]) if users else ""
