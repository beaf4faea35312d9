"""A server on a clock of its own, and meters of it whose counters tick slowly."""

import types
from contextlib import contextmanager

import pytest

from envs import live
from envs.energy import carry
from envs.energy import meter as energy
from envs.upstream import Generation


class Clock:
    """Stands in for the module `time`; only work and waiting move it."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def time(self):
        return 1e9 + self.now

    def sleep(self, seconds):
        self.now += seconds


class Server:
    """An upstream that takes so many seconds a token, and answers the tokens it is told."""

    def __init__(self, clock, seconds_per_token=0.001):
        self.clock, self.seconds_per_token = clock, seconds_per_token
        self.tokens = lambda asked: 4
        self.asked, self.busy_seconds = 0, 0.0
        self.error = None

    def chat(self, bodies):
        if self.error:
            raise self.error
        found = []
        for _ in bodies:
            tokens = self.tokens(self.asked)
            seconds = tokens * self.seconds_per_token
            self.clock.sleep(seconds)
            self.busy_seconds += seconds
            self.asked += 1
            found.append(Generation("Hello", 0, tokens, seconds))
        return found

    def close(self):
        pass


class Ticking:
    """100 W while the server works, shown from tick to tick."""

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
    """(server, meter) on a made clock, which these modules see too."""
    clock = Clock()
    server = Server(clock)
    with pytest.MonkeyPatch.context() as patch:
        for module in (carry, energy, live, *modules):
            patch.setattr(module, "time", clock)
        yield server, Ticking(server, tick_seconds, method)
