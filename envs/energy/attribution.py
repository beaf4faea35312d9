"""Splits measured joules among the requests of a server that batches them, as they come.

A window's joules are split by what each request did in it (`envs.energy.work`) at the
coefficients that the windows themselves show (`envs.energy.work_costs`). The shares of a window
always sum to what was measured in it: coefficients only set their proportions.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from envs.arrays import Float64Array
from envs.energy.coefficients import Coefficients
from envs.energy.meter import EnergyReading
from envs.energy.work import (
    CONTEXT,
    CONTEXT_TOKENS,
    DECODE,
    KINDS,
    PASSES,
    PREFILL,
    Activity,
    work_in_windows,
)
from envs.energy.work_costs import FIT_SECONDS, WorkCosts

Idle = Literal["apart", "shared"]
# Windows settled at once at most, and the longest gap among them; they bound memory.
_BLOCK, _GAP_SECONDS = 60, 30.0
# Windows that nobody settles are settled anyway, with the requests that have ended.
LATE_SECONDS = 600.0
KEPT_SECONDS = 900.0
# Of so many windows without requests, by which idle power is told.
_EMPTIES, _EMPTY_QUANTILE = 3600, 0.25
# How a share's error grows with the window's: found on simulated servers of 4 to 64 requests
# at once and of several sizes, and checked on others (`sprout bench attribution`).
_NOISE, _NOISE_ALONE, _BIAS = 0.007, 40.0, 0.02


@dataclass(frozen=True, slots=True)
class Share:
    """What one request has cost.

    Attributes:
        joules: its shares of measured windows.
        device_seconds: its shares of the windows' time.
        error_joules: standard error of `joules`.
        unmetered_joules: estimate for the part of it that no window covers.
        covered: ratio of it that windows cover.
    """

    key: str
    joules: float
    device_seconds: float
    error_joules: float
    unmetered_joules: float
    covered: float

    @property
    def method(self) -> str:
        """The label of all its joules together."""
        return "attributed" if self.covered > 0.99 else "estimated"


@dataclass
class _Account:
    activity: Activity
    joules: float = 0.0
    seconds: float = 0.0
    noise: float = 0.0
    covered: float = 0.0
    done: Float64Array = field(default_factory=lambda: np.zeros(len(KINDS)))
    slope: Float64Array = field(default_factory=lambda: np.zeros(len(KINDS)))


class Attribution:
    """Give it ended requests and measured windows in any order, then `settle`.

    Args:
        idle: what becomes of idle power while requests are answered: "apart" keeps it in
            `idle_joules`, "shared" splits it by the time that each is answered. Windows in
            which nothing is answered are idle either way.
        prior: coefficients to begin with; default rough ratios, scaled to the windows.
        idle_watts: W; default what windows without requests show.
        fit_seconds: length of the spans that coefficients are fitted to.

    Attributes:
        prices: what each kind of work costs.
        measured_joules: of all windows settled.
        attributed_joules: of those, what requests got.
        idle_joules: the rest.
    """

    def __init__(
        self,
        idle: Idle = "apart",
        prior: Coefficients | None = None,
        idle_watts: float | None = None,
        fit_seconds: float = FIT_SECONDS,
    ) -> None:
        self._idle = idle
        self.prices = WorkCosts(prior, fit_seconds)
        known = prior.idle_watts if prior is not None else None
        self._stated_idle = idle_watts if idle_watts is not None else known
        self._windows: deque[EnergyReading] = deque()
        self._accounts: dict[str, _Account] = {}
        self._empty: deque[float] = deque(maxlen=_EMPTIES)
        self._overdue = 0
        self._frontier = -float("inf")
        self.measured_joules = self.attributed_joules = self.idle_joules = 0.0

    @property
    def idle_watts(self) -> float | None:
        """W while nothing is in flight: as stated, else as seen; None before that."""
        if self._stated_idle is not None:
            return self._stated_idle
        # What seems empty may be work that nobody told us of: the lower ones are.
        return float(np.quantile(self._empty, _EMPTY_QUANTILE)) if self._empty else None

    def ended(self, activity: Activity) -> None:
        """A request has ended."""
        self._accounts[activity.key] = _Account(activity)

    def window(self, reading: EnergyReading) -> None:
        """A window has been measured.

        Windows wait to be settled for `KEPT_SECONDS` at most; older ones are given up, as if they
        had not been measured.
        """
        last = self._windows[-1].end if self._windows else self._frontier
        if reading.start < last - 1e-9:
            # The clock was set back: what waits is not waited for, its time will not be again.
            self._overdue = len(self._windows)
            self._frontier = reading.start
        while self._windows and reading.end - self._windows[0].end > KEPT_SECONDS:
            self._windows.popleft()
            self._overdue = max(0, self._overdue - 1)
        self._windows.append(reading)

    @property
    def open_since(self) -> float:
        """What has ended before (Unix seconds) is in no window that waits."""
        return self._windows[0].start if self._windows else self._frontier

    def settle(self, until: float) -> list[Share]:
        """Split all windows that end by `until`; the requests that no later one concerns.

        Args:
            until: when the oldest request that has not ended was sent, or now.
        """
        if self._windows:
            # A request that never ends must not keep all others waiting.
            until = max(until, self._windows[-1].end - LATE_SECONDS)
        while block := self._block(until):
            self._split(block)
            self._frontier = block[-1].end
        # Where no window comes, requests do not wait for one for ever either.
        self._frontier = max(self._frontier, until - LATE_SECONDS)
        over = [a for a in self._accounts.values() if a.activity.end <= self._frontier]
        for account in over:
            del self._accounts[account.activity.key]
        return [self._share(account) for account in over]

    def _block(self, until: float) -> list[EnergyReading]:
        block: list[EnergyReading] = []
        while self._windows and len(block) < _BLOCK:
            if self._windows[0].end > until and not self._overdue:
                break
            # What lies across a long gap, or a clock that was set back, has nothing in common.
            if block and not -1e-9 <= self._windows[0].start - block[-1].end <= _GAP_SECONDS:
                break
            block.append(self._windows.popleft())
            self._overdue = max(0, self._overdue - 1)
        return block

    def _split(self, block: list[EnergyReading]) -> None:
        joules = np.array([w.joules for w in block])
        bounds = np.array([(w.start, w.end) for w in block])
        lasted = bounds[:, 1] - bounds[:, 0]
        self.measured_joules += float(joules.sum())
        here = [
            a
            for a in self._accounts.values()
            if a.activity.start < bounds[-1, 1] and a.activity.end > bounds[0, 0]
        ]
        if not here:
            self._nobody(joules, lasted)
            return
        found = work_in_windows([a.activity for a in here], bounds)
        busy = np.minimum(found.residency_seconds.sum(axis=0), lasted)
        anybody = (found.done.sum(axis=(0, 2)) > 0) | (busy > 0)
        self._nobody(joules[~anybody], lasted[~anybody])
        floor = np.minimum(joules, (self.idle_watts or 0.0) * lasted)
        done = found.done.sum(axis=0)
        self.prices.learn(done[anybody], (joules - floor)[anybody], lasted[anybody])
        weights = found.done @ self.prices.values
        sums = weights.sum(axis=0)
        stayed = found.residency_seconds / np.maximum(busy, 1e-12)
        parts = np.where(sums > 0, weights / np.where(sums > 0, sums, 1.0), stayed)
        above = np.where(anybody, joules - floor, 0.0)
        shares = parts * above
        if self._idle == "shared":
            shares = shares + stayed * (floor * np.where(anybody, busy / lasted, 0.0))
        given = float(shares.sum())
        self.attributed_joules += given
        self.idle_joules += float(joules[anybody].sum()) - given
        per = np.divide(above, sums, out=np.zeros_like(sums), where=sums > 0)
        slopes = np.einsum("w,nwk->nk", per, found.done)
        slopes -= np.einsum("nw,wk->nk", parts * per, done)
        variance = self.prices.window_error**2 * lasted / lasted.mean()
        noise = _NOISE * (parts * (1 - parts) * (1 + _NOISE_ALONE * parts)) @ variance
        for i, account in enumerate(here):
            account.joules += float(shares[i].sum())
            account.seconds += float(found.residency_seconds[i].sum())
            account.covered += float(found.covered[i])
            account.noise += float(noise[i])
            account.done += found.done[i].sum(axis=0)
            account.slope += slopes[i]

    def _nobody(self, joules: Float64Array, lasted: Float64Array) -> None:
        self.idle_joules += float(joules.sum())
        self._empty.extend((joules / lasted).tolist())

    def _share(self, account: _Account) -> Share:
        covered = min(1.0, account.covered)
        activity, done = account.activity, account.done
        after = max(0, activity.completion_tokens - 1)
        whole = np.zeros(len(KINDS))
        whole[PREFILL], whole[DECODE] = activity.prompt_tokens, after
        whole[CONTEXT] = after * (activity.prompt_tokens + after / 2) / CONTEXT_TOKENS
        whole[PASSES] = done[PASSES] / covered if covered > 0 else after + 1.0
        missing = float(np.maximum(0.0, whole - done) @ self.prices.values) if covered < 1 else 0.0
        error = float(account.slope @ self.prices.covariance @ account.slope)
        error += account.noise + (_BIAS * account.joules) ** 2
        return Share(activity.key, account.joules, account.seconds, error**0.5, missing, covered)
