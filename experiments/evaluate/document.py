"""The evaluation as JSON: the contract that later comparisons read."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents.methods.scene import Scene
from envs.carbon.intensity import iso
from experiments.evaluate.result import Figures, Kept
from experiments.statistics import Interval

SCHEMA = 1


def document(
    scene: Scene, figures: Mapping[str, Figures], mix: str, warnings: Sequence[str]
) -> dict[str, Any]:
    """Everything that a reader of the result needs to know, in plain types."""
    return {
        "schema": SCHEMA,
        "quality": scene.quality,
        "floors": dict(scene.floors),
        "mix": mix,
        "task_share": {
            task: float(scene.weights[scene.rows_of(task)].sum() / scene.weights.sum())
            for task in scene.floors
        },
        "requests": len(scene),
        "model": scene.profile.model,
        "energy_method": scene.profile.outcomes.energy_method,
        "tokens_method": scene.profile.tokens_method,
        "load_in_flight": 0,
        "warnings": list(warnings),
        "methods": {name: _method(found) for name, found in figures.items()},
        "zones": {
            trace.zone: _zone(scene, index, figures) for index, trace in enumerate(scene.traces)
        },
    }


METHOD_COLUMNS = (
    *("method", "knows", "carbon_saving_pct", "excess_over_per_task_lp_pct", "quality_ratio"),
    *("worst_task", "worst_ratio"),
)


def method_rows(result: Mapping[str, Any]) -> list[list[Any]]:
    """A document's methods as rows of `METHOD_COLUMNS`."""
    rows = []
    for name, found in result["methods"].items():
        kept = found["quality"][result["quality"]]
        floors = result["floors"]
        task, worst = min(
            kept["by_task"].items(), key=lambda item: item[1]["ratio"] - floors[item[0]]
        )
        saved, excess = found["carbon_saving_pct"], found["excess_over_per_task_lp_pct"]
        row = [name, found["knows"], saved, excess, kept["ratio"], task, worst["ratio"]]
        rows.append(row)
    return rows


def _method(found: Figures) -> dict[str, Any]:
    return {
        "knows": found.knows,
        "carbon_saving_pct": found.saving_pct.value,
        "carbon_saving_ci95": _ends(found.saving_pct),
        "excess_over_per_task_lp_pct": found.excess_pct.value,
        "excess_ci95": _ends(found.excess_pct),
        "excess_by_task_pct": found.excess_by_task_pct,
        "grams_per_request": found.grams_per_request,
        "grams_per_1k_generated_tokens": 1000 * found.grams_per_request / found.tokens_per_request
        if found.tokens_per_request > 0
        else None,
        "grams_per_correct_answer": found.grams_per_correct,
        "mean_completion_tokens": found.tokens_per_request,
        "mean_latency_seconds": found.seconds_per_request,
        "directive_share": found.share,
        "quality": {kind: _kept(kept) for kind, kept in found.quality.items()},
    }


def _kept(kept: Kept) -> dict[str, Any]:
    return {
        "ratio": _number(kept.ratio.value),
        "ci95": _ends(kept.ratio),
        "by_task": {
            task: {"ratio": ratio.value, "ci95": _ends(ratio), "n": kept.counts[task]}
            for task, ratio in kept.by_task.items()
        },
    }


def _zone(scene: Scene, index: int, figures: Mapping[str, Figures]) -> dict[str, Any]:
    here = scene.zone == index
    trace = scene.traces[index]
    described: dict[str, Any] = {"source": trace.source.rsplit("/", 1)[-1]}
    described |= {"signal": trace.signal, "scope": trace.scope, "requests": int(here.sum())}
    if not here.any():
        return described
    base = float(scene.means(scene.grams[:, 0], here))
    return described | {
        "first_hour": iso(float(scene.times[here].min())),
        "last_hour": iso(float(scene.times[here].max())),
        "mean_intensity_g_per_kwh": float(scene.means(scene.intensity, here)),
        "methods": {
            name: {
                "carbon_saving_pct": 100 * (1 - grams / base),
                "grams_per_request": grams,
            }
            for name, found in figures.items()
            for grams in [float(scene.means((scene.grams * found.chances).sum(axis=1), here))]
        },
    }


def _ends(found: Interval) -> list[float] | None:
    return None if np.isnan(found.value) else [found.low, found.high]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
