"""The seam between the environments and where outcomes come from: recorded or live."""

from typing import Protocol

from envs.arrays import AnyArray
from envs.outcomes.outcome import Outcomes
from envs.requests.request import Request


class Backend(Protocol):
    """Plays requests under directives."""

    @property
    def requests(self) -> tuple[Request, ...]:
        """The workload that rows refer to."""

    def in_flight(self, lanes: int) -> AnyArray:
        """Requests at the server when each of `lanes` simultaneous ones is sent, shape (lanes,)."""

    def play(self, rows: AnyArray, actions: AnyArray) -> Outcomes:
        """Outcomes of requests `rows` under directives `actions`, each shape (n,), at once."""

    def close(self) -> None:
        """Free what it holds; it is not used afterwards."""
