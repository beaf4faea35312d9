"""What requests did in windows of time on a server that batches them continuously.

A server answers its requests in *passes*: each pass makes one token for every request that is
being answered and reads some prompts beside. How fast passes go is not known from outside, but
all requests share their rhythm: a request's first and last token are as many passes apart as it
has tokens. That gives the passes' clock, and so what each request did in each window.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from envs.arrays import Float64Array

# Kinds of work, in the order of arrays' last axis: prompt tokens read; tokens generated; thousands
# of earlier tokens that generated ones looked back on; shares of passes (1/n in a pass with n).
KINDS = ("prefill", "decode", "context", "passes")
PREFILL, DECODE, CONTEXT, PASSES = range(len(KINDS))
CONTEXT_TOKENS = 1000.0
# How far beyond the windows the clock looks for the other ends of requests.
_MARGIN_SECONDS = 30.0
_FAR_SECONDS = 1e6
# Neighbouring bins are drawn to one rate, by this share of what requests say of a bin.
_SMOOTHING = 3e-4


@dataclass(frozen=True, slots=True)
class Activity:
    """One request, as whoever sent it or relayed it saw it; times on one clock, s.

    Attributes:
        key: its name.
        start: when it was sent.
        first: when its first token came; None where the answer came whole.
        end: when its last token came, or it was given up.
        prompt_tokens, completion_tokens: as far as it got.
    """

    key: str
    start: float
    first: float | None
    end: float
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Work:
    """What n requests did in w windows.

    Attributes:
        done: shape (n, w, len(KINDS)).
        residency_seconds: each request's share of the time in which any was being answered,
            shape (n, w): 1/k of a moment with k.
        covered: share of each request's passes that lie in the windows, shape (n,).
    """

    done: Float64Array
    residency_seconds: Float64Array
    covered: Float64Array


def work_in_windows(activities: Sequence[Activity], windows: Float64Array) -> Work:
    """The work of requests in windows.

    Args:
        windows: starts and ends, shape (w, 2), in order, not overlapping; there may be gaps.
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
    after = np.maximum(generated - 1.0, 0.0)
    whole = np.array([a.first is None for a in activities])
    clock = _clock(start, end, after + whole, bins)
    # Beyond its reach the clock goes on as it does on the whole.
    far = np.array([bins[0] - _FAR_SECONDS, *bins, bins[-1] + _FAR_SECONDS])
    beyond = _FAR_SECONDS * clock[-1] / (bins[-1] - bins[0])
    clock = np.array([-beyond, *clock, clock[-1] + beyond])

    def at(times: Float64Array) -> Float64Array:
        return np.interp(times, far, clock)

    # The first token came at the end of a pass of its own.
    began = np.clip(np.interp(at(start) - 1.0, clock, far), sent, start)
    begun, passed = at(began), np.maximum(at(end) - at(began), 1e-9)
    edges = windows.ravel()
    done = np.clip((at(edges) - begun[:, None]) / passed[:, None], 0.0, 1.0)
    tokens = done * after[:, None]
    looked = (prompt[:, None] * tokens + tokens**2 / 2) / CONTEXT_TOKENS
    read = prompt[:, None] * ((began + start)[:, None] / 2 <= edges)
    moments = np.unique(np.concatenate([began, end, edges, bins]))
    together = np.searchsorted(np.sort(began), moments, side="right") - np.searchsorted(
        np.sort(end), moments, side="right"
    )
    alone = np.where(together > 0, 1.0 / np.maximum(together, 1), 0.0)[:-1]
    passes = _shares(moments, alone * np.diff(at(moments)), began, end, edges)
    passes *= ((after + 1.0) / passed)[:, None]
    seconds = _shares(moments, alone * np.diff(moments), began, end, edges)
    parts = np.stack([_within(part) for part in (read, tokens, looked, passes)], axis=-1)
    return Work(parts, _within(seconds), _within(done).sum(axis=1))


def _within(cumulated: Float64Array) -> Float64Array:
    """From values at windows' starts and ends, shape (n, 2w), to what lies in each, (n, w)."""
    inside: Float64Array = cumulated[:, 1::2] - cumulated[:, ::2]
    return inside


def _shares(
    moments: Float64Array,
    each: Float64Array,
    began: Float64Array,
    end: Float64Array,
    edges: Float64Array,
) -> Float64Array:
    """Cumulated shares of requests at the edges, of what each of the moments' gaps gives one."""
    cumulated = np.concatenate([[0.0], np.cumsum(each)])
    bounded = np.clip(edges, began[:, None], end[:, None])
    shares: Float64Array = np.interp(bounded, moments, cumulated)
    return shares


def _bins(windows: Float64Array, start: Float64Array, end: Float64Array) -> Float64Array:
    """Edges of the clock's bins: the windows', gaps in between, and as wide ones beyond."""
    edges = np.unique(windows)
    wide = max(float(np.median(np.diff(windows, axis=1))), 1e-3)
    first = max(float(min(start.min(), edges[0])), edges[0] - _MARGIN_SECONDS)
    last = min(float(max(end.max(), edges[-1])), edges[-1] + _MARGIN_SECONDS)
    # One more to the left: requests begin a pass before their first token.
    before = edges[0] - wide * np.arange(np.ceil((edges[0] - first) / wide) + 1, 0, -1)
    after = edges[-1] + wide * np.arange(1, np.ceil((last - edges[-1]) / wide) + 1)
    gaps = [
        np.linspace(low, high, int(np.ceil((high - low) / wide)) + 1)[1:-1]
        for low, high in itertools.pairwise(edges)
        if high - low > 1.5 * wide
    ]
    return np.unique(np.concatenate([before, edges, after, *gaps]))


def _clock(
    start: Float64Array, end: Float64Array, passes: Float64Array, bins: Float64Array
) -> Float64Array:
    """Passes since the first bin's start, at each edge: least squares over the requests.

    A request that reaches beyond the bins counts with the part of it that lies within.
    """
    widths = np.diff(bins)
    low, high = np.maximum(bins[:-1], start[:, None]), np.minimum(bins[1:], end[:, None])
    lies = np.maximum(0.0, high - low)
    span = np.maximum(end - start, 1e-9)
    known = passes * np.minimum(1.0, lies.sum(axis=1) / span)
    lies /= widths
    # Per second, so that bins of unlike widths are drawn to like rates.
    rates = lies * widths
    square = rates.T @ rates
    steps = np.diff(np.eye(len(widths)), axis=0)
    scale = _SMOOTHING * max(float(np.diag(square).max()), 1e-9)
    square += scale * (steps.T @ steps) + 1e-9 * scale * np.eye(len(widths))
    found = np.linalg.solve(square, rates.T @ known)
    # Never quite still, so that times can be found from passes.
    return np.concatenate([[0.0], np.cumsum(np.maximum(found, 1e-6) * widths)])
