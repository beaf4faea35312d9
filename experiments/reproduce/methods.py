"""The methods of the published table, and further ones, applied to one window."""

from collections.abc import Callable

import numpy as np

from agents.methods.dual_price import cheapest_choices
from agents.methods.linear_program import cheapest_mixes
from agents.methods.sprout import largest_savings_first
from envs.arrays import Float64Array, Int64Array
from envs.carbon.footprint import footprint_grams
from experiments.reproduce.window import HOURS, JUDGED_PROMPTS, Outcome, Window


def base(window: Window) -> Outcome:
    """Always choose L0."""
    return _mixed(window, _level(window, np.zeros(HOURS, dtype=np.int64)))


def co2_opt(window: Window) -> Outcome:
    """Choose the level with the smallest footprint in each hour."""
    return _mixed(window, _level(window, window.grams.argmin(axis=1)))


def sprout_lp(window: Window) -> Outcome:
    """Solve SPROUT's linear program each hour, with the quality from the last evaluation."""
    return _mixed(window, _hourly(window, window.scores[window.evaluated]))


def sprout_static(window: Window) -> Outcome:
    """Use one mix of levels for the whole window.

    The paper does not say how the mix is determined. The published mixes have no very brief
    share, and they follow the mean intensity of the 720 hours before the window (correlation
    .95, against .86 for the mean of the window itself). Therefore the mix is solved here for
    that intensity and for the mean quality of the window.
    """
    energy = window.sample.energy_by_task.sum(axis=(0, 1))
    seconds = window.sample.seconds_by_task.sum(axis=(0, 1))
    scores = window.scores.sum(axis=0)
    before = np.array(window.mean_before)
    floor = window.floor_at(before) * scores[0]
    costs = footprint_grams(energy, seconds, before)
    mix = cheapest_mixes(costs[None], scores[None, None], np.array([[floor]]))
    return _mixed(window, np.repeat(mix, HOURS, axis=0))


def sprout_oracle(window: Window) -> Outcome:
    """Solve each hour's program with its true quality; give short levels where they save most."""
    grams = window.request_grams()
    return _chosen(window, largest_savings_first(grams, _hourly(window, window.scores)), grams)


def per_task_lp(window: Window) -> Outcome:
    """Solve one program per task and hour; each task must keep the hour's floor on its own."""
    directives = window.grams.shape[1]
    known = window.sample.scores_by_task[window.evaluated].reshape(-1, directives)
    least = (window.floors[:, None] * known[:, 0].reshape(HOURS, -1)).reshape(-1, 1)
    mixes = cheapest_mixes(window.grams_by_task.reshape(-1, directives), known[:, None], least)
    by_task = mixes.reshape(window.grams_by_task.shape)
    counts = window.sample.by_task(np.ones(window.sample.task.shape))
    return Outcome(
        (window.grams_by_task * by_task).sum(axis=(1, 2)),
        (window.sample.scores_by_task * by_task).sum(axis=2),
        np.average(by_task.reshape(-1, directives), axis=0, weights=counts.ravel()),
    )


def clairvoyant(window: Window) -> Outcome:
    """Choose with every prompt's outcomes known; each task keeps its floor over the window."""
    grams, scores = window.request_grams(), window.sample.scores
    chance = np.zeros_like(scores)
    least = window.floors[:, None] * window.sample.scores_by_task[:, :, 0]
    for task, minimum in enumerate(least.sum(axis=0)):
        rows = window.sample.task == task
        chance[rows] = cheapest_choices(grams[rows], scores[rows], float(minimum))
    return Outcome(
        (grams * chance).sum(axis=(1, 2)),
        window.sample.by_task((scores * chance).sum(axis=2)),
        chance.mean(axis=(0, 1)),
    )


def model_opt(window: Window) -> Outcome:
    """Mix two models instead of levels by SPROUT's program; shares are rounded to tenths.

    The columns of the window are the large and the small model, both at L0.
    """
    large = np.round(_hourly(window, window.scores[window.evaluated])[:, :1], 1)
    return _mixed(window, np.concatenate([large, 1 - large], axis=1))


METHODS: dict[str, Callable[[Window], Outcome]] = {
    "base": base,
    "co2_opt": co2_opt,
    "sprout_static": sprout_static,
    "sprout_lp": sprout_lp,
    "sprout_oracle": sprout_oracle,
    "per_task_lp": per_task_lp,
}


def _hourly(window: Window, known: Float64Array) -> Float64Array:
    """Return SPROUT's mix in each hour, shape (H, D), given the known quality, shape (H, D)."""
    least = (window.floors * known[:, 0])[:, None]
    return cheapest_mixes(window.grams, known[:, None], least)


def _level(window: Window, levels: Int64Array) -> Float64Array:
    """Return the mixes, shape (H, D), that always choose the given level of each hour."""
    mixes: Float64Array = np.eye(window.grams.shape[1])[levels]
    return mixes


def _mixed(window: Window, mixes: Float64Array) -> Outcome:
    """Return the expected outcome of one mix per hour; `mixes` has shape (H, D)."""
    return Outcome(
        (window.grams * mixes).sum(axis=1),
        np.einsum("htd,hd->ht", window.sample.scores_by_task, mixes),
        mixes.mean(axis=0),
    )


def _chosen(window: Window, actions: Int64Array, grams: Float64Array) -> Outcome:
    """Return the outcome of one directive per prompt; `actions` has shape (H, n)."""
    index = actions[..., None]
    counts = np.bincount(actions.ravel(), minlength=grams.shape[2])
    return Outcome(
        np.take_along_axis(grams, index, axis=2)[..., 0].sum(axis=1),
        window.sample.by_task(np.take_along_axis(window.sample.scores, index, axis=2)[..., 0]),
        counts / (HOURS * JUDGED_PROMPTS),
    )
