"""Pairs of answers that people are to judge, blind: they do not see which one is L0's.

They wait in memory only, because they hold the texts of requests.
"""

import hashlib
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from envs.requests.directive import Message
from serving.ledger.quality.verdict import BETTER, TIE, WORSE, Verdict
from serving.quality.cell import Cell
from serving.quality.judges.protocol import compared, text_of

# Pairs that wait in each cell: a random selection of those that a judge has seen.
MOST_PAIRS = 20
_LONGEST_CHARACTERS = 100_000
# They are dropped after this time, s.
_LONGEST_SECONDS = 7 * 86400.0
# Prefix of a person's name as judge.
PEOPLE = "people:"
Choice = Literal["A", "B", "tie"]


@dataclass(frozen=True)
class Pair:
    """An answer and L0's answer to the same request.

    Attributes:
        verdict: another judge's verdict on it.
        messages: the request's messages.
        answer: the judged answer.
        l0: L0's answer.
    """

    verdict: Verdict
    messages: Sequence[Message]
    answer: str
    l0: str

    @property
    def key(self) -> str:
        """Identifies the pair."""
        return f"{self.verdict.decision_id}-{self.verdict.arm}"

    @property
    def l0_first(self) -> bool:
        """True if L0's answer is shown as A: by a coin that the key tosses."""
        return hashlib.sha256(self.key.encode()).digest()[0] % 2 == 0

    def shown(self) -> dict[str, Any]:
        """Return what a reviewer sees, JSON-ready."""
        texts = (self.l0, self.answer) if self.l0_first else (self.answer, self.l0)
        return {
            "review_id": self.key,
            "task": self.verdict.task,
            "request": [
                {"role": str(m.get("role", "user")), "text": text_of(m)} for m in self.messages
            ],
            "answers": dict(zip("AB", texts, strict=True)),
        }

    def judged(self, choice: Choice, reviewer: str) -> Verdict:
        """Return a person's verdict."""
        result = TIE
        if choice != "tie":
            result = WORSE if (choice == "A") == self.l0_first else BETTER
        opinion = compared(result)
        return replace(
            self.verdict,
            verdict_id=f"{self.key}-{PEOPLE}{reviewer}",
            time=time.time(),
            judge=PEOPLE + reviewer,
            rubric=None,
            result=result,
            quality=opinion.quality,
            l0_quality=opinion.l0_quality,
            consistent=None,
            judge_tokens=None,
            judge_seconds=0.0,
            judge_joules=0.0,
            evaluation_joules=0.0,
            evaluation_grams=0.0,
            heeded=False,
        )


class Reviews:
    """The waiting pairs."""

    def __init__(self) -> None:
        self._pairs: dict[Cell, list[Pair]] = {}
        self._seen: dict[Cell, int] = {}
        self._reviewed: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def add(self, pair: Pair) -> None:
        """Offer a pair; each one of a cell has the same chance to wait (Vitter, 1985)."""
        texts = (pair.answer, pair.l0, *map(text_of, pair.messages))
        if pair.answer == pair.l0 or sum(map(len, texts)) > _LONGEST_CHARACTERS:
            return
        cell = Cell(pair.verdict.model, pair.verdict.task, pair.verdict.zone)
        with self._lock:
            pairs = self._pairs.setdefault(cell, [])
            self._seen[cell] = self._seen.get(cell, 0) + 1
            if len(pairs) < MOST_PAIRS:
                pairs.append(pair)
            elif (place := random.randrange(self._seen[cell])) < MOST_PAIRS:
                pairs[place] = pair

    def next(self, reviewer: str) -> tuple[Pair | None, int]:
        """Return a pair that a reviewer has not judged, and how many there are.

        The cell with the most waiting pairs comes first.
        """
        with self._lock:
            self._expire()
            waiting = [
                [pair for pair in pairs if (pair.key, reviewer) not in self._reviewed]
                for pairs in self._pairs.values()
            ]
        longest = max(waiting, key=len, default=[])
        return (longest[0] if longest else None), sum(map(len, waiting))

    def forget(self, decision_id: str) -> None:
        """Drop the pairs of a request that is deleted."""
        with self._lock:
            for pairs in self._pairs.values():
                pairs[:] = [pair for pair in pairs if pair.verdict.decision_id != decision_id]

    def _expire(self) -> None:
        oldest = time.time() - _LONGEST_SECONDS
        for pairs in self._pairs.values():
            pairs[:] = [pair for pair in pairs if pair.verdict.time > oldest]
        kept = {pair.key for pairs in self._pairs.values() for pair in pairs}
        self._reviewed = {each for each in self._reviewed if each[0] in kept}

    def judge(self, key: str, choice: Choice, reviewer: str) -> Verdict:
        """Return a person's verdict on a pair.

        Raises:
            KeyError: no such pair waits (any more).
        """
        with self._lock:
            for pairs in self._pairs.values():
                for pair in pairs:
                    if pair.key == key:
                        return pair.judged(choice, reviewer)
        raise KeyError("no such pair waits for a review (any more)")

    def done(self, key: str, reviewer: str) -> None:
        """Note that a reviewer's verdict on a pair is stored."""
        with self._lock:
            self._reviewed.add((key, reviewer))
