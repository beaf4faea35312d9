"""Replay: outcomes from a recorded profile. Deterministic."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.outcome import Outcomes
from envs.profile import Profile
from envs.request import Request


class ReplayBackend:
    """Looks outcomes up in a profile; no requests are in flight, and it says 0."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    @property
    def requests(self) -> tuple[Request, ...]:
        """The profile's requests."""
        return self._profile.requests

    def in_flight(self, lanes: int) -> NDArray[Any]:
        """Zeros: a profile records no load."""
        return np.zeros(lanes)

    def play(self, rows: NDArray[Any], actions: NDArray[Any]) -> Outcomes:
        """The recorded outcomes."""
        return self._profile.outcomes(rows, actions)

    def close(self) -> None:
        """Nothing to free."""
