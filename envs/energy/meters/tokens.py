"""Energy estimate from generated tokens and stated joules per token."""

from envs.plausible import check_joules_per_token
from envs.upstream import Upstream


class TokenMeter:
    """Completion tokens that a client has received, times `joules_per_token`.

    Meant for remote servers whose energy cannot be read. Llama-2-13B on one A100-class GPU takes
    5.88 J per token at batch size 1, and several times less when batched: measure rather than
    guess where possible.

    Args:
        upstream: client of the server; it counts the completion tokens.
        joules_per_token: stated energy per completion token, J.

    Raises:
        UnitError: `joules_per_token` is absurd in joules.
    """

    method = "estimated"
    error_ratio = 0.5
    tick_seconds = 0.0
    devices = ("the upstream server",)

    def __init__(self, upstream: Upstream, joules_per_token: float) -> None:
        check_joules_per_token(joules_per_token, "--joules-per-token")
        self._upstream = upstream
        self._joules_per_token = joules_per_token
        self.source = f"completion tokens x {joules_per_token:g} J, as stated"

    def read_joules(self) -> float:
        """Return the joules of all tokens that the client has received so far."""
        return self._joules_per_token * self._upstream.completion_tokens
