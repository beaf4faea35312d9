"""A fake server on a simulated clock, and meters of it whose counters tick slowly."""

import types
from contextlib import contextmanager

import pytest

from envs.backends import live
from envs.energy import carry
from envs.energy import meter as energy
from envs.upstream import Generation


class Clock:
    """Replacement for the module `time`; only simulated work and `sleep` advance it."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def time(self):
        return 1e9 + self.now

    def sleep(self, seconds):
        self.now += seconds


class Server:
    """An upstream with a fixed time per token; `tokens(n)` gives the length of its n-th answer."""

    def __init__(self, clock, seconds_per_token=0.001):
        self.clock, self.seconds_per_token = clock, seconds_per_token
        self.tokens = lambda index: 4
        self.answered, self.busy_seconds = 0, 0.0
        self.error = None
        self.answered_by = "made", None

    def chat(self, bodies):
        if self.error:
            raise self.error
        generations = []
        for _ in bodies:
            tokens = self.tokens(self.answered)
            seconds = tokens * self.seconds_per_token
            self.clock.sleep(seconds)
            self.busy_seconds += seconds
            self.answered += 1
            generations.append(Generation("Hello", 0, tokens, seconds))
        return generations

    def close(self):
        pass


class Ticking:
    """A meter of 100 W while the server works; its counter rises once a tick."""

    source, devices, error_ratio = "made", ("made",), 0.0

    def __init__(self, server, tick_seconds, method="estimated"):
        self.server, self.tick_seconds, self.method = server, tick_seconds, method
        self.stands = False
        self.last = 0.0

    def read_joules(self):
        if not self.stands:
            ticks = int(self.server.busy_seconds / self.tick_seconds + 1e-9)
            self.last = 100.0 * ticks * self.tick_seconds
        return self.last


@contextmanager
def ticking(tick_seconds, method="estimated", *modules: types.ModuleType):
    """Yield (server, meter) on a simulated clock, which also replaces `time` in `modules`."""
    clock = Clock()
    server = Server(clock)
    with pytest.MonkeyPatch.context() as patch:
        for module in (carry, energy, live, *modules):
            patch.setattr(module, "time", clock)
        yield server, Ticking(server, tick_seconds, method)
