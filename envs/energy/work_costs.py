"""What a unit of each kind of work costs a server, learned on line from its windows."""

from collections import deque

import numpy as np

from envs.arrays import Float64Array
from envs.energy.coefficients import Coefficients
from envs.energy.fit import Fit, fit_costs
from envs.energy.work import KINDS

# Coefficients are fitted to spans this long: within one, what a request did is known by the
# second at best, and such errors would draw coefficients to 0.
FIT_SECONDS = 10.0
# Spans kept: an hour of work.
_SPANS = 360
# Fewer say nothing yet.
LEAST_SPANS = 12
# Rough joules of each kind against each other, for what windows do not tell apart: a 13 B model
# in half precision on one A100, from its weights' bytes and its arithmetic.
PRIOR = np.array([0.1, 1.0, 0.3, 5.0])


class WorkCosts:
    """Joules of a unit of each of `envs.energy.work.KINDS`, above idle power.

    Args:
        prior: coefficients to begin with; default rough ratios, scaled to the windows.
        fit_seconds: length of the spans that coefficients are fitted to.

    Attributes:
        fit: None until windows have shown it.
        window_error: standard deviation of a window's joules about it.
    """

    def __init__(self, prior: Coefficients | None, fit_seconds: float) -> None:
        own = prior.joules if prior is not None else PRIOR
        # Never 0: what a prior leaves out, windows may still show.
        self._prior = np.maximum(own, 1e-3 * own.max() * PRIOR / PRIOR.max())
        self._fit_seconds = fit_seconds
        self._spans: deque[tuple[Float64Array, float, float]] = deque(maxlen=_SPANS)
        self._span: list[tuple[Float64Array, float, float]] = []
        self._so_far = 0.0, 0.0
        self.fit: Fit | None = None
        self.window_error = 0.0

    @property
    def values(self) -> Float64Array:
        """J of each kind: as fitted; before that the prior, scaled to what was measured."""
        if self.fit is not None:
            return self.fit.values
        told, measured = self._so_far
        scaled: Float64Array = self._prior * (measured / told if told > 0 else 1.0)
        return scaled

    @property
    def covariance(self) -> Float64Array:
        """Of `values`; before they are fitted, as uncertain as they are large."""
        return self.fit.covariance if self.fit is not None else np.diag(self.values**2)

    @property
    def seen(self) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Spans in which requests were answered: work (n, k), joules above idle, seconds."""
        spans = list(self._spans)
        done = np.array([done for done, _, _ in spans]).reshape(-1, len(KINDS))
        joules, seconds = (np.array([span[i] for span in spans]) for i in (1, 2))
        return done, joules, seconds

    def learn(self, done: Float64Array, joules: Float64Array, lasted: Float64Array) -> None:
        """From windows: work (w, k), joules above idle and seconds, each (w,)."""
        told, measured = self._so_far
        self._so_far = told + float((done @ self._prior).sum()), measured + float(joules.sum())
        for window in zip(done, joules.tolist(), lasted.tolist(), strict=True):
            self._span.append(window)
            if sum(seconds for _, _, seconds in self._span) < self._fit_seconds - 1e-6:
                continue
            rows, above, seconds = zip(*self._span, strict=True)
            self._spans.append((np.sum(rows, axis=0), sum(above), sum(seconds)))
            self._span.clear()
        if len(self._spans) < LEAST_SPANS or not len(joules):
            return
        done_before, joules_before, _ = self.seen
        self.fit = fit_costs(done_before, joules_before, self._prior)
        error = float(np.sqrt(np.mean((joules - done @ self.fit.values) ** 2)))
        # Of windows, not of spans: within a span their errors cancel.
        self.window_error = (self.window_error + error) / 2 if self.window_error else error
