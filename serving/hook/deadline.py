"""Runs a decider within a deadline, at no cost to the many decisions that are quick."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from serving.hook.decider import Decider, Decision, DecisionInput

# After this many decisions in a row that missed the deadline, a thread runs the decider.
OVERRUNS = 3


class TooLateError(Exception):
    """The policy did not answer in time."""


class DeadlineRunner:
    """Runs deciders in the event loop while they are quick, else in a thread.

    Args:
        deadline: longest time that a decision may take, s.
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._overruns = 0
        self._pool = ThreadPoolExecutor(2, "sprout-decide")

    async def run(self, decider: Decider, question: DecisionInput) -> Decision:
        """Return the decision.

        Raises:
            TooLateError: the deadline passed.
        """
        if decider.slow or self._overruns >= OVERRUNS:
            future = asyncio.get_running_loop().run_in_executor(
                self._pool, decider.decide, question
            )
            try:
                decision = await asyncio.wait_for(future, self._deadline)
            except TimeoutError:
                raise TooLateError from None
        else:
            # A thread would cost more than the decision does.
            started = time.monotonic()
            decision = decider.decide(question)
            if time.monotonic() - started > self._deadline:
                self._overruns += 1
                raise TooLateError
        self._overruns = 0
        return decision

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
