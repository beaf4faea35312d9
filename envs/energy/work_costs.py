"""Online estimate of the energy cost of each kind of work, fitted to a server's windows."""

from collections import deque

import numpy as np

from envs.arrays import Float64Array
from envs.energy.coefficients import Coefficients
from envs.energy.fit import Fit, fit_costs
from envs.energy.work import KINDS

# Coefficients are fitted to spans of this length. Shorter windows would bias them towards 0,
# because the time of a request's work is known to a second at best.
FIT_SECONDS = 10.0
# Spans to keep: one hour of work.
_SPANS = 360
# Fewer spans than this are too few for a fit.
LEAST_SPANS = 12
# Rough joules of each kind relative to the others, used where windows cannot separate them: a
# 13 B model in half precision on one A100, from its weights' bytes and its arithmetic.
PRIOR = np.array([0.1, 1.0, 0.3, 5.0])


class WorkCosts:
    """Joules above idle power per unit of each of `envs.energy.work.KINDS`.

    Args:
        prior: initial coefficients; None means rough ratios, scaled to the windows.
        fit_seconds: length of the spans that coefficients are fitted to, s.

    Attributes:
        fit: the latest fit; None until there are enough spans.
        window_error: standard deviation of a window's joules about the fit, J.
    """

    def __init__(self, prior: Coefficients | None, fit_seconds: float) -> None:
        costs = prior.joules if prior is not None else PRIOR
        # Never 0: the windows may show a cost that the prior leaves out.
        self._prior = np.maximum(costs, 1e-3 * costs.max() * PRIOR / PRIOR.max())
        self._fit_seconds = fit_seconds
        self._spans: deque[tuple[Float64Array, float, float]] = deque(maxlen=_SPANS)
        self._span: list[tuple[Float64Array, float, float]] = []
        # Joules so far by the prior, and as measured.
        self._totals = 0.0, 0.0
        self.fit: Fit | None = None
        self.window_error = 0.0

    @property
    def values(self) -> Float64Array:
        """J per unit of each kind, shape (k,); before the first fit the scaled prior."""
        if self.fit is not None:
            return self.fit.values
        predicted, measured = self._totals
        scaled: Float64Array = self._prior * (measured / predicted if predicted > 0 else 1.0)
        return scaled

    @property
    def covariance(self) -> Float64Array:
        """Covariance of `values`; before the first fit, standard errors of 100 %."""
        return self.fit.covariance if self.fit is not None else np.diag(self.values**2)

    @property
    def seen(self) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Spans with requests: work (n, k), joules above idle power (n,) and seconds (n,)."""
        spans = list(self._spans)
        done = np.array([done for done, _, _ in spans]).reshape(-1, len(KINDS))
        joules, seconds = (np.array([span[i] for span in spans]) for i in (1, 2))
        return done, joules, seconds

    def learn(self, done: Float64Array, joules: Float64Array, lasted: Float64Array) -> None:
        """Add windows, and refit the coefficients if there are enough spans.

        Args:
            done: work in each window, shape (w, k).
            joules: energy above idle power of each window, J, shape (w,).
            lasted: length of each window, s, shape (w,).
        """
        predicted, measured = self._totals
        self._totals = (
            predicted + float((done @ self._prior).sum()),
            measured + float(joules.sum()),
        )
        for window in zip(done, joules.tolist(), lasted.tolist(), strict=True):
            self._span.append(window)
            if sum(seconds for _, _, seconds in self._span) < self._fit_seconds - 1e-6:
                continue
            rows, above_idle, seconds = zip(*self._span, strict=True)
            self._spans.append((np.sum(rows, axis=0), sum(above_idle), sum(seconds)))
            self._span.clear()
        if len(self._spans) < LEAST_SPANS or not len(joules):
            return
        span_work, span_joules, _ = self.seen
        self.fit = fit_costs(span_work, span_joules, self._prior)
        error = float(np.sqrt(np.mean((joules - done @ self.fit.values) ** 2)))
        # Taken from windows, not from spans: errors of windows cancel within a span.
        self.window_error = (self.window_error + error) / 2 if self.window_error else error
