"""Replay: outcomes from a recorded profile. Deterministic."""

from collections.abc import Callable

import numpy as np

from envs.arrays import AnyArray
from envs.outcomes.outcome import Outcomes
from envs.outcomes.profile import Profile
from envs.requests.request import Request


class ReplayBackend:
    """Looks outcomes up in a profile.

    Args:
        load: requests in flight now, from a trace of arrivals; default none, and it says 0.
    """

    def __init__(self, profile: Profile, load: Callable[[], float] | None = None) -> None:
        self._profile = profile
        self._load = load

    @property
    def requests(self) -> tuple[Request, ...]:
        """The profile's requests."""
        return self._profile.requests

    def in_flight(self, lanes: int) -> AnyArray:
        """The trace's load, or zeros: a profile records none."""
        return np.full(lanes, self._load() if self._load else 0.0)

    def play(self, rows: AnyArray, actions: AnyArray) -> Outcomes:
        """The recorded outcomes."""
        return self._profile.outcomes_of(rows, actions)

    def close(self) -> None:
        """Nothing to free."""
