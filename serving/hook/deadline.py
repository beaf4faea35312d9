"""Asks a decider within a deadline, without making the many quick ones pay for it."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from envs.requests.directive import Message
from serving.hook.decider import Decider, Observation
from serving.hook.grid import Seen

# After so many answers too late in a row, it is asked beside the event loop.
OVERRUNS = 3


class TooLateError(Exception):
    """The policy did not answer in time."""


class DeadlineRunner:
    """A decider's answers: in place while they are quick, else in a thread.

    Args:
        deadline: s.
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._overruns = 0
        self._pool = ThreadPoolExecutor(2, "sprout-decide")

    async def ask(
        self,
        decider: Decider,
        messages: Sequence[Message],
        task: str | None,
        in_flight: int,
        floor: float | None,
        seen: Seen,
    ) -> tuple[Observation, list[float]]:
        """What is observed, and each directive's probability; see `Decider`.

        Raises:
            TooLateError: not within the deadline.
        """

        def answer() -> tuple[Observation, list[float]]:
            observation = decider.observe(messages, task, in_flight, seen)
            return observation, decider.chances(observation, task, floor)

        if decider.slow or self._overruns >= OVERRUNS:
            asked = asyncio.get_running_loop().run_in_executor(self._pool, answer)
            try:
                found = await asyncio.wait_for(asked, self._deadline)
            except TimeoutError:
                raise TooLateError from None
        else:
            # A thread would cost more than the decision does.
            started = time.monotonic()
            found = answer()
            if time.monotonic() - started > self._deadline:
                self._overruns += 1
                raise TooLateError
        self._overruns = 0
        return found

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
