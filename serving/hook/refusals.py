"""Remembers which models' servers refuse a directive's text.

Many chat templates know no system role. Their servers refuse a steered request with a status that
does not always say so (vLLM 400, TGI 422, mlx-lm 404, older SGLang 500), before any token is made.
"""

import time

REFUSED_STATUSES = frozenset((400, 404, 413, 422))
_BROKEN = 500
# Refusals in a row after which a model is left alone, and for how long, s.
ENOUGH = 3
REMEMBERED_SECONDS = 3600.0
# After a request failed with and without its directive, a status of 500 causes no further request
# for this long, s: the server is broken, and must not get double load.
BROKEN_SECONDS = 30.0


class Refusals:
    """Refusals by model, as one worker has seen them."""

    def __init__(self) -> None:
        self._in_a_row: dict[str | None, int] = {}
        self._remembered_until: dict[str | None, float] = {}
        self._broken_until: dict[str | None, float] = {}

    def leave_alone(self, model: str | None) -> bool:
        """Return whether requests for this model must not get a directive's text."""
        until = self._remembered_until.get(model)
        return until is not None and time.monotonic() < until

    def may_resend(self, model: str | None, status: int) -> bool:
        """Return whether a steered request with this answer's status is to be sent as it came."""
        if status == _BROKEN:
            return time.monotonic() >= self._broken_until.get(model, 0.0)
        return status in REFUSED_STATUSES

    def accepted(self, model: str | None) -> None:
        """Note that a steered request was answered."""
        self._in_a_row.pop(model, None)

    def resent(self, model: str | None, status: int) -> None:
        """Note the status of the answer to a request that was sent again as it came."""
        if status < 400:
            count = self._in_a_row[model] = self._in_a_row.get(model, 0) + 1
            if count >= ENOUGH:
                self._in_a_row.pop(model)
                self._remembered_until[model] = time.monotonic() + REMEMBERED_SECONDS
        elif status >= _BROKEN:
            self._broken_until[model] = time.monotonic() + BROKEN_SECONDS
