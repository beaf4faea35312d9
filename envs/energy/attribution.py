"""Split measured joules among the requests of a batching server, window by window.

A window's joules are split in proportion to the work that each request did in the window
(`envs.energy.work`), weighted by cost coefficients that are fitted to the windows themselves
(`envs.energy.work_costs`). The coefficients set only the proportions: the shares of a window
always sum to the joules measured in the window.
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
# Most windows settled in one block, and the longest gap inside a block; both bound memory.
_BLOCK, _GAP_SECONDS = 60, 30.0
# A window this old is settled with the requests that have ended, even if others still run.
LATE_SECONDS = 600.0
# An unsettled window this old is dropped.
KEPT_SECONDS = 900.0
# Idle power is this quantile of the power in the latest windows without requests.
_EMPTIES, _EMPTY_QUANTILE = 3600, 0.25
# Error model of a share, given the window's error: fitted on simulated servers of several sizes
# with 4 to 64 concurrent requests, and checked on others (`sprout bench attribution`).
_NOISE, _NOISE_ALONE, _BIAS = 0.007, 40.0, 0.02


@dataclass(frozen=True, slots=True)
class Share:
    """Energy attributed to one request.

    Attributes:
        key: the request's name, as in `Activity`.
        joules: sum of the request's shares of measured windows, J.
        device_seconds: sum of the request's shares of the windows' time, s.
        error_joules: standard error of `joules`, J.
        unmetered_joules: estimated energy of the request's work outside all windows, J.
        covered: fraction of the request's work that the windows cover, 0 to 1.
    """

    key: str
    joules: float
    device_seconds: float
    error_joules: float
    unmetered_joules: float
    covered: float

    @property
    def method(self) -> str:
        """Label of the request's total joules: "attributed" or "estimated"."""
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
    """Online split of measured windows among requests.

    Pass ended requests to `ended` and measured windows to `window`, in any order between the
    two; then call `settle`.

    Args:
        idle: treatment of idle power while requests are in flight: "apart" adds it to
            `idle_joules`, "shared" splits it in proportion to the requests' time. Windows
            without requests always count as idle.
        prior: initial coefficients; by default rough ratios, scaled to the windows.
        idle_watts: idle power, W; by default estimated from windows without requests.
        fit_seconds: length of the spans that the coefficients are fitted to, s.

    Attributes:
        prices: current cost of each kind of work.
        measured_joules: energy of all settled windows, J.
        attributed_joules: part of `measured_joules` that went to requests, J.
        idle_joules: the rest of `measured_joules`, J.
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
        prior_idle = prior.idle_watts if prior is not None else None
        self._stated_idle = idle_watts if idle_watts is not None else prior_idle
        self._windows: deque[EnergyReading] = deque()
        self._accounts: dict[str, _Account] = {}
        self._empty_watts: deque[float] = deque(maxlen=_EMPTIES)
        self._overdue = 0
        self._frontier = -float("inf")
        self.measured_joules = self.attributed_joules = self.idle_joules = 0.0

    @property
    def idle_watts(self) -> float | None:
        """Power with no request in flight, W: stated, else estimated; None before any estimate."""
        if self._stated_idle is not None:
            return self._stated_idle
        # Unrecorded requests may run in windows that seem empty, so take a low quantile.
        return float(np.quantile(self._empty_watts, _EMPTY_QUANTILE)) if self._empty_watts else None

    def ended(self, activity: Activity) -> None:
        """Register a request that has ended."""
        self._accounts[activity.key] = _Account(activity)

    def window(self, reading: EnergyReading) -> None:
        """Add a measured window.

        A window waits at most `KEPT_SECONDS` to be settled. Older windows are dropped as if they
        had not been measured.
        """
        last_end = self._windows[-1].end if self._windows else self._frontier
        if reading.start < last_end - 1e-9:
            # The clock was set back, so `until` may never reach the waiting windows: settle
            # them at the next call.
            self._overdue = len(self._windows)
            self._frontier = reading.start
        while self._windows and reading.end - self._windows[0].end > KEPT_SECONDS:
            self._windows.popleft()
            self._overdue = max(0, self._overdue - 1)
        self._windows.append(reading)

    @property
    def oldest_unsettled(self) -> float:
        """Start of the oldest unsettled window, Unix seconds; if none, end of the settled ones."""
        return self._windows[0].start if self._windows else self._frontier

    def settle(self, until: float) -> list[Share]:
        """Split all windows that end by `until`; return the requests that are then complete.

        A request is complete when no later window can overlap it.

        Args:
            until: time at which the oldest request still in flight was sent, or now, Unix seconds.
        """
        if self._windows:
            # A request that never ends must not delay all others for ever.
            until = max(until, self._windows[-1].end - LATE_SECONDS)
        while block := self._next_block(until):
            self._split(block)
            self._frontier = block[-1].end
        # Without new windows, requests must not wait for ever either.
        self._frontier = max(self._frontier, until - LATE_SECONDS)
        complete = [a for a in self._accounts.values() if a.activity.end <= self._frontier]
        for account in complete:
            del self._accounts[account.activity.key]
        return [self._share(account) for account in complete]

    def _next_block(self, until: float) -> list[EnergyReading]:
        block: list[EnergyReading] = []
        while self._windows and len(block) < _BLOCK:
            if self._windows[0].end > until and not self._overdue:
                break
            # Start a new block after a long gap, or where the clock was set back.
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
        accounts = [
            a
            for a in self._accounts.values()
            if a.activity.start < bounds[-1, 1] and a.activity.end > bounds[0, 0]
        ]
        if not accounts:
            self._book_idle(joules, lasted)
            return
        work = work_in_windows([a.activity for a in accounts], bounds)
        busy = np.minimum(work.residency_seconds.sum(axis=0), lasted)
        occupied = (work.done.sum(axis=(0, 2)) > 0) | (busy > 0)
        self._book_idle(joules[~occupied], lasted[~occupied])
        floor = np.minimum(joules, (self.idle_watts or 0.0) * lasted)
        done = work.done.sum(axis=0)
        self.prices.learn(done[occupied], (joules - floor)[occupied], lasted[occupied])
        weights = work.done @ self.prices.values
        sums = weights.sum(axis=0)
        time_parts = work.residency_seconds / np.maximum(busy, 1e-12)
        parts = np.where(sums > 0, weights / np.where(sums > 0, sums, 1.0), time_parts)
        above_idle = np.where(occupied, joules - floor, 0.0)
        shares = parts * above_idle
        if self._idle == "shared":
            shares = shares + time_parts * (floor * np.where(occupied, busy / lasted, 0.0))
        attributed = float(shares.sum())
        self.attributed_joules += attributed
        self.idle_joules += float(joules[occupied].sum()) - attributed
        # Derivative of each share by each coefficient, for the share's standard error.
        per_weight = np.divide(above_idle, sums, out=np.zeros_like(sums), where=sums > 0)
        slopes = np.einsum("w,nwk->nk", per_weight, work.done)
        slopes -= np.einsum("nw,wk->nk", parts * per_weight, done)
        variance = self.prices.window_error**2 * lasted / lasted.mean()
        noise = _NOISE * (parts * (1 - parts) * (1 + _NOISE_ALONE * parts)) @ variance
        for i, account in enumerate(accounts):
            account.joules += float(shares[i].sum())
            account.seconds += float(work.residency_seconds[i].sum())
            account.covered += float(work.covered[i])
            account.noise += float(noise[i])
            account.done += work.done[i].sum(axis=0)
            account.slope += slopes[i]

    def _book_idle(self, joules: Float64Array, lasted: Float64Array) -> None:
        self.idle_joules += float(joules.sum())
        self._empty_watts.extend((joules / lasted).tolist())

    def _share(self, account: _Account) -> Share:
        covered = min(1.0, account.covered)
        activity, done = account.activity, account.done
        decoded = max(0, activity.completion_tokens - 1)
        total = np.zeros(len(KINDS))
        total[PREFILL], total[DECODE] = activity.prompt_tokens, decoded
        total[CONTEXT] = decoded * (activity.prompt_tokens + decoded / 2) / CONTEXT_TOKENS
        total[PASSES] = done[PASSES] / covered if covered > 0 else decoded + 1.0
        unmetered = (
            float(np.maximum(0.0, total - done) @ self.prices.values) if covered < 1 else 0.0
        )
        error = float(account.slope @ self.prices.covariance @ account.slope)
        error += account.noise + (_BIAS * account.joules) ** 2
        return Share(activity.key, account.joules, account.seconds, error**0.5, unmetered, covered)
