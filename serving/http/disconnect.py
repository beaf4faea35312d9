"""Cancels a request's work once its client has disconnected."""

import asyncio

from serving.http.asgi import Receive

# Time after the request before the client's disconnect is watched for, s.
WATCH_DELAY_SECONDS = 0.05


class DisconnectWatcher:
    """Cancels the task that created this object when the client disconnects.

    Attributes:
        task: the task to cancel.
        disconnected: whether the client disconnected.
    """

    def __init__(self, receive: Receive) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.disconnected = False
        self._receive = receive
        self._watch_task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Start watching; call this once the request's body has been received."""
        # Delayed, because most answers of a fast server are complete before the task is needed.
        self._timer = asyncio.get_running_loop().call_later(WATCH_DELAY_SECONDS, self._begin)

    def stop(self) -> None:
        """Stop watching; no effect if `watch` was not called."""
        if self._timer is not None:
            self._timer.cancel()
        if self._watch_task is not None:
            self._watch_task.cancel()

    def _begin(self) -> None:
        self._watch_task = asyncio.ensure_future(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        self.disconnected = True
        self.task.cancel()
