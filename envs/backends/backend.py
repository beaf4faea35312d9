"""The interface between the environments and the source of outcomes, recorded or live."""

from typing import Protocol

from envs.arrays import AnyArray
from envs.outcomes.outcome import Outcomes
from envs.requests.request import Request


class Backend(Protocol):
    """Returns the outcomes of requests under directives, from a live server or a profile."""

    @property
    def requests(self) -> tuple[Request, ...]:
        """The workload. Row i refers to its i-th request."""

    def in_flight(self, lanes: int) -> AnyArray:
        """Return the number of other requests at the server when each lane sends its own.

        Args:
            lanes: number of requests sent simultaneously.

        Returns:
            One count per lane, shape (lanes,).
        """

    def play(self, rows: AnyArray, actions: AnyArray) -> Outcomes:
        """Return the outcomes of n requests that are sent at the same time.

        Args:
            rows: index of each request in `requests`, shape (n,).
            actions: index of the directive for each request, shape (n,).
        """

    def close(self) -> None:
        """Release the backend's resources; the backend must not be used afterwards."""
