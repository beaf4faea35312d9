"""Draws requests whose answers are to be judged, in the process that serves them."""

import random
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from serving.ledger.record import Record
from serving.quality.sampling.sample import Draft, Sample
from serving.settings.guard_levels import GuardLevels

# Samples that wait to be sent; more are dropped.
MOST_WAITING = 256
# Name of the socket in the folder that a replica's processes share.
SOCKET = "samples"
_LENGTH = struct.Struct("!I")
# The parent reads at once, unless it hangs.
_SEND_SECONDS = 1.0

# Takes samples; returns how many it took.
Send = Callable[[list[Sample]], int]


class Sampler:
    """Draws requests at random, each task with a probability of its own.

    Args:
        share: probability in cells that have none of their own.
        levels: the cells' settings.

    Attributes:
        send: takes the samples of a round; called by `flush`, outside the event loop. With None,
            nothing is drawn.
        dropped: samples that nobody took since the last `flush`.
    """

    def __init__(self, share: float, levels: GuardLevels) -> None:
        self._share = share
        self._levels = levels
        self.send: Send | None = None
        self._waiting: deque[Sample] = deque()
        self.dropped = 0

    def draw(self, model: str, task: str, zone: str) -> float | None:
        """Draw a request of a cell; return the probability if it is in the sample, else None."""
        if self.send is None:
            return None
        setting = self._levels.of(model, task, zone)
        share = self._share if setting is None or setting.share is None else setting.share
        return share if random.random() < share else None

    def add(self, draft: Draft, record: Record, answer: str | None) -> None:
        """Take a drawn request whose answer is complete."""
        if len(self._waiting) >= MOST_WAITING:
            self.dropped += 1
            return
        self._waiting.append(
            Sample(
                decision_id=record.decision_id,
                decided=record.time,
                route=record.route,
                model=record.model or "",
                policy_version=record.policy_version or "",
                served=record.directive if record.applied else "none",
                answer=answer,
                tokens=record.completion_tokens,
                joules=record.energy_joules,
                **{field.name: getattr(draft, field.name) for field in fields(draft)},
            )
        )

    def flush(self) -> int:
        """Send what waits; return how many samples were dropped since the last time."""
        samples = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if samples and self.send is not None:
            self.dropped += len(samples) - self.send(samples)
        dropped, self.dropped = self.dropped, 0
        return dropped


class SocketSender:
    """Sends samples to the replica's parent process over a local socket.

    Args:
        folder: folder that the replica's processes share.
    """

    def __init__(self, folder: Path) -> None:
        self._path = str(folder / SOCKET)
        self._socket: socket.socket | None = None

    def __call__(self, samples: list[Sample]) -> int:
        """Send samples, and return how many were sent."""
        sent = 0
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX)
                self._socket.settimeout(_SEND_SECONDS)
                self._socket.connect(self._path)
            for sample in samples:
                try:
                    raw = sample.to_bytes()
                except TypeError:
                    # Another server's body may hold what is no JSON.
                    continue
                self._socket.sendall(_LENGTH.pack(len(raw)) + raw)
                sent += 1
        except OSError:
            # A part of a sample may be sent, so the connection is of no more use.
            if self._socket is not None:
                self._socket.close()
            self._socket = None
        return sent


class SocketReceiver:
    """Receives samples from the workers in a thread for each of them.

    Args:
        folder: folder that the replica's processes share.
        take: takes one sample.
    """

    def __init__(self, folder: Path, take: Callable[[Sample], object]) -> None:
        self._take = take
        path = folder / SOCKET
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, name="sprout-samples", daemon=True).start()

    def close(self) -> None:
        """Accept no more workers."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._receive, args=(connection,), daemon=True).start()

    def _receive(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file:
            while len(head := file.read(_LENGTH.size)) == _LENGTH.size:
                raw = file.read(_LENGTH.unpack(head)[0])
                try:
                    self._take(Sample.from_bytes(raw))
                except (ValueError, TypeError):
                    return
