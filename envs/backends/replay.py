"""The replay backend: outcomes from a recorded profile. Deterministic."""

from collections.abc import Callable

import numpy as np

from envs.arrays import AnyArray
from envs.outcomes.outcome import Outcomes
from envs.outcomes.profile import Profile
from envs.requests.request import Request


class ReplayBackend:
    """Looks up outcomes in a profile.

    Args:
        load: returns the number of requests in flight now, from an arrival trace; None for
            a constant load of 0.
    """

    def __init__(self, profile: Profile, load: Callable[[], float] | None = None) -> None:
        self._profile = profile
        self._load = load

    @property
    def requests(self) -> tuple[Request, ...]:
        """The profile's requests."""
        return self._profile.requests

    def in_flight(self, lanes: int) -> AnyArray:
        """Return the arrival trace's load for every lane, or 0: a profile records no load."""
        return np.full(lanes, self._load() if self._load else 0.0)

    def play(self, rows: AnyArray, actions: AnyArray) -> Outcomes:
        """Return the recorded outcomes of requests `rows` under `actions`, each shape (n,)."""
        return self._profile.outcomes_of(rows, actions)

    def close(self) -> None:
        """Do nothing: a profile holds no resources."""
