"""Estimate the work of each request in each time window on a server with continuous batching.

The server works in *passes*: each pass generates one token for every running request, and reads
part of the waiting prompts. The rate of passes is not visible from outside, but all requests
share it: a request's tokens tell the number of passes between its first and its last token. From
all requests together follows a clock that counts passes, and from the clock each request's work in
each window.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from envs.arrays import Float64Array

# Kinds of work, in the order of the arrays' last axis: prompt tokens read; tokens generated;
# context, the thousands of earlier tokens that generated tokens attend to; and shares of passes
# (1/n for each request in a pass with n requests).
KINDS = ("prefill", "decode", "context", "passes")
PREFILL, DECODE, CONTEXT, PASSES = range(len(KINDS))
CONTEXT_TOKENS = 1000.0
# The clock reaches this far beyond the windows, to use requests that cross their bounds.
_MARGIN_SECONDS = 30.0
_FAR_SECONDS = 1e6
# Weight of the penalty on unequal pass rates in neighbouring bins, relative to a bin's data.
_SMOOTHING = 3e-4


@dataclass(frozen=True, slots=True)
class Activity:
    """One request as its sender or an intermediary observed it; all times are on one clock, s.

    Attributes:
        key: unique name of the request.
        start: time at which the request was sent.
        first: time of the first token; None if the answer was not streamed.
        end: time of the last token, or of the request's cancellation.
        prompt_tokens, completion_tokens: tokens read and generated until `end`.
    """

    key: str
    start: float
    first: float | None
    end: float
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Work:
    """Work of n requests in w windows.

    Attributes:
        done: units of each kind of work, shape (n, w, len(KINDS)).
        residency_seconds: each request's share of the time with requests in flight, s, shape
            (n, w): k requests in flight at one moment get 1/k of it each.
        covered: fraction of each request's passes that lie in the windows, shape (n,).
    """

    done: Float64Array
    residency_seconds: Float64Array
    covered: Float64Array


def work_in_windows(activities: Sequence[Activity], windows: Float64Array) -> Work:
    """Return the work of each request in each window.

    Args:
        activities: at least one request.
        windows: starts and ends, s, shape (w, 2), in order and without overlaps; gaps are allowed.
    """
    sent, start, end, prompt, generated = (
        np.array([a.start for a in activities]),
        np.array([(a.start if a.first is None else a.first) for a in activities]),
        np.array([a.end for a in activities]),
        np.array([a.prompt_tokens for a in activities], dtype=np.float64),
        np.array([a.completion_tokens for a in activities], dtype=np.float64),
    )
    end = np.maximum(start, end)
    bins = _bins(windows, start, end)
    decoded = np.maximum(generated - 1.0, 0.0)
    unstreamed = np.array([a.first is None for a in activities])
    clock = _clock(start, end, decoded + unstreamed, bins)
    # Beyond its bins the clock runs at its mean rate.
    times = np.array([bins[0] - _FAR_SECONDS, *bins, bins[-1] + _FAR_SECONDS])
    beyond = _FAR_SECONDS * clock[-1] / (bins[-1] - bins[0])
    clock = np.array([-beyond, *clock, clock[-1] + beyond])

    def passes_at(moments: Float64Array) -> Float64Array:
        return np.interp(moments, times, clock)

    # The first token comes at the end of a pass that reads the prompt, so begin one pass earlier.
    began = np.clip(np.interp(passes_at(start) - 1.0, clock, times), sent, start)
    first_pass = passes_at(began)
    total_passes = np.maximum(passes_at(end) - passes_at(began), 1e-9)
    edges = windows.ravel()
    done = np.clip((passes_at(edges) - first_pass[:, None]) / total_passes[:, None], 0.0, 1.0)
    tokens = done * decoded[:, None]
    context = (prompt[:, None] * tokens + tokens**2 / 2) / CONTEXT_TOKENS
    prefilled = prompt[:, None] * ((began + start)[:, None] / 2 <= edges)
    moments = np.unique(np.concatenate([began, end, edges, bins]))
    concurrent = np.searchsorted(np.sort(began), moments, side="right") - np.searchsorted(
        np.sort(end), moments, side="right"
    )
    share = np.where(concurrent > 0, 1.0 / np.maximum(concurrent, 1), 0.0)[:-1]
    passes = _shares(moments, share * np.diff(passes_at(moments)), began, end, edges)
    passes *= ((decoded + 1.0) / total_passes)[:, None]
    seconds = _shares(moments, share * np.diff(moments), began, end, edges)
    parts = np.stack([_within(part) for part in (prefilled, tokens, context, passes)], axis=-1)
    return Work(parts, _within(seconds), _within(done).sum(axis=1))


def _within(cumulative: Float64Array) -> Float64Array:
    """Turn cumulative values at the windows' edges, shape (n, 2w), into increments, (n, w)."""
    increments: Float64Array = cumulative[:, 1::2] - cumulative[:, ::2]
    return increments


def _shares(
    moments: Float64Array,
    each: Float64Array,
    began: Float64Array,
    end: Float64Array,
    edges: Float64Array,
) -> Float64Array:
    """Return each request's cumulative share at each of the m edges, shape (n, m).

    Args:
        moments: times between which the amounts are constant, s, shape (t,).
        each: amount that every running request receives between two moments, shape (t - 1,).
        began, end: bounds of each request, s, shape (n,).
        edges: times at which the shares are wanted, s, shape (m,).
    """
    cumulative = np.concatenate([[0.0], np.cumsum(each)])
    bounded = np.clip(edges, began[:, None], end[:, None])
    shares: Float64Array = np.interp(bounded, moments, cumulative)
    return shares


def _bins(windows: Float64Array, start: Float64Array, end: Float64Array) -> Float64Array:
    """Return the edges of the clock's bins, s.

    Each window is a bin. Gaps and the margins beyond the windows get bins of about the same width.
    """
    edges = np.unique(windows)
    width = max(float(np.median(np.diff(windows, axis=1))), 1e-3)
    first = max(float(min(start.min(), edges[0])), edges[0] - _MARGIN_SECONDS)
    last = min(float(max(end.max(), edges[-1])), edges[-1] + _MARGIN_SECONDS)
    # Add one bin on the left: requests begin a pass before their first token.
    before = edges[0] - width * np.arange(np.ceil((edges[0] - first) / width) + 1, 0, -1)
    after = edges[-1] + width * np.arange(1, np.ceil((last - edges[-1]) / width) + 1)
    gaps = [
        np.linspace(low, high, int(np.ceil((high - low) / width)) + 1)[1:-1]
        for low, high in itertools.pairwise(edges)
        if high - low > 1.5 * width
    ]
    return np.unique(np.concatenate([before, edges, after, *gaps]))


def _clock(
    start: Float64Array, end: Float64Array, passes: Float64Array, bins: Float64Array
) -> Float64Array:
    """Return the number of passes since the first bin's start, at each edge.

    The rates of passes are fitted to all requests by least squares. A request that extends beyond
    the bins counts with the part inside them.
    """
    widths = np.diff(bins)
    low, high = np.maximum(bins[:-1], start[:, None]), np.minimum(bins[1:], end[:, None])
    overlap = np.maximum(0.0, high - low)
    span = np.maximum(end - start, 1e-9)
    known = passes * np.minimum(1.0, overlap.sum(axis=1) / span)
    overlap /= widths
    # Fit passes per second, so that bins of unequal widths are smoothed to equal rates.
    design = overlap * widths
    square = design.T @ design
    steps = np.diff(np.eye(len(widths)), axis=0)
    scale = _SMOOTHING * max(float(np.diag(square).max()), 1e-9)
    square += scale * (steps.T @ steps) + 1e-9 * scale * np.eye(len(widths))
    rates = np.linalg.solve(square, design.T @ known)
    # Rates stay above 0, so that the clock can be inverted.
    return np.concatenate([[0.0], np.cumsum(np.maximum(rates, 1e-6) * widths)])
