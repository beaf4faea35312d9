"""Remembers which models' servers refuse a directive's text.

Many chat templates know no system role. Their servers refuse a steered request with a status that
does not always say so (vLLM 400, TGI 422, mlx-lm 404, older SGLang 500), before any token is made.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

REFUSED_STATUSES = frozenset((400, 404, 413, 422))
_BROKEN = 500
# Refusals in a row after which a model is left alone, and for how long, s.
ENOUGH = 3
REMEMBERED_SECONDS = 3600.0
# After a request failed with its changes and without them, a status of 500 causes no second request
# for this long, s: the server is broken, and must not get double load.
BROKEN_SECONDS = 30.0


class Change(NamedTuple):
    """A change to requests for one model, which its server may refuse.

    Attributes:
        part: "directive" for a directive's text, "usage" for the question for a stream's usage.
    """

    model: str | None
    part: str


class Refusals:
    """Refusals by model, as one worker has seen them."""

    def __init__(self) -> None:
        self._in_a_row: dict[Change, int] = {}
        self._remembered_until: dict[Change, float] = {}
        self._accepted: set[Change] = set()
        self._broken_until: dict[str | None, float] = {}

    def refuses(self, model: str | None, part: str) -> bool:
        """Return whether requests for this model must not be changed in this way."""
        until = self._remembered_until.get(Change(model, part))
        return until is not None and time.monotonic() < until

    def may_resend(self, model: str | None, status: int) -> bool:
        """Return whether a steered request with this answer's status is to be sent as it came."""
        if status == _BROKEN:
            return time.monotonic() >= self._broken_until.get(model, 0.0)
        return status in REFUSED_STATUSES

    def accepted(self, model: str | None, parts: Sequence[str]) -> None:
        """Note that a request with these changes was answered with success."""
        for part in parts:
            self._in_a_row.pop(Change(model, part), None)
            self._accepted.add(Change(model, part))

    def resent(self, model: str | None, parts: Sequence[str], status: int) -> None:
        """Note the status of the answer to a request that was sent again without its changes.

        Where there were two changes, the one that was never accepted is the likely cause.
        """
        if 200 <= status < 400 and parts:
            suspects = [p for p in parts if Change(model, p) not in self._accepted] or parts
            change = Change(model, suspects[-1])
            count = self._in_a_row[change] = self._in_a_row.get(change, 0) + 1
            if count >= ENOUGH:
                self._in_a_row.pop(change)
                self._remembered_until[change] = time.monotonic() + REMEMBERED_SECONDS
        elif status >= _BROKEN:
            self._broken_until[model] = time.monotonic() + BROKEN_SECONDS
