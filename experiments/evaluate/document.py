"""The evaluation as a JSON document; later comparisons read it, so its keys are a contract."""

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
    """Return the result of an evaluation as JSON-compatible types.

    Args:
        scene: the evaluated requests.
        figures: results by method.
        mix: the mix as given with --mix.
        warnings: warnings for the reader of the result.
    """
    return {
        "schema": SCHEMA,
        "quality": scene.quality,
        "pooled_over_zones": len(scene.traces),
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
        "methods": {name: _method(result) for name, result in figures.items()},
        "zones": {
            trace.zone: _zone(scene, index, figures) for index, trace in enumerate(scene.traces)
        },
    }


METHOD_COLUMNS = (
    *("method", "knows", "carbon_saving_pct", "excess_over_per_task_lp_pct", "quality_ratio"),
    *("worst_task", "worst_ratio"),
)


def method_rows(result: Mapping[str, Any]) -> list[list[Any]]:
    """Return a document's methods as rows with the columns `METHOD_COLUMNS`."""
    rows = []
    for name, method in result["methods"].items():
        quality = method["quality"][result["quality"]]
        floors = result["floors"]
        task, worst = min(
            quality["by_task"].items(), key=lambda item: item[1]["ratio"] - floors[item[0]]
        )
        saving, excess = method["carbon_saving_pct"], method["excess_over_per_task_lp_pct"]
        row = [name, method["knows"], saving, excess, quality["ratio"], task, worst["ratio"]]
        rows.append(row)
    return rows


def _method(figures: Figures) -> dict[str, Any]:
    tokens = figures.tokens_per_request
    return {
        "knows": figures.knows,
        "carbon_saving_pct": figures.saving_pct.value,
        "carbon_saving_ci95": _ends(figures.saving_pct),
        "excess_over_per_task_lp_pct": figures.excess_pct.value,
        "excess_ci95": _ends(figures.excess_pct),
        "excess_by_task_pct": figures.excess_by_task_pct,
        "grams_per_request": figures.grams_per_request,
        "grams_per_1k_generated_tokens": 1000 * figures.grams_per_request / tokens
        if tokens > 0
        else None,
        "grams_per_correct_answer": figures.grams_per_correct,
        "mean_completion_tokens": tokens,
        "mean_latency_seconds": figures.seconds_per_request,
        "directive_share": figures.share,
        "quality": {kind: _quality(quality) for kind, quality in figures.quality.items()},
        "quality_by_zone": [cell.to_json() for cell in figures.cells],
        "quality_by_zone_and_month": [cell.to_json() for cell in figures.month_cells],
        "missed_in_zones": sum(cell.missed for cell in figures.cells),
        "missed_in_months": sum(cell.missed for cell in figures.month_cells),
    }


def _quality(quality: Kept) -> dict[str, Any]:
    return {
        "ratio": _number(quality.ratio.value),
        "ci95": _ends(quality.ratio),
        "by_task": {
            task: {"ratio": ratio.value, "ci95": _ends(ratio), "n": quality.counts[task]}
            for task, ratio in quality.by_task.items()
        },
    }


def _zone(scene: Scene, index: int, figures: Mapping[str, Figures]) -> dict[str, Any]:
    rows = scene.zone == index
    trace = scene.traces[index]
    zone: dict[str, Any] = {"source": trace.source.rsplit("/", 1)[-1]}
    zone |= {"signal": trace.signal, "scope": trace.scope, "requests": int(rows.sum())}
    if not rows.any():
        return zone
    base = float(scene.means(scene.grams[:, 0], rows))
    return zone | {
        "first_hour": iso(float(scene.times[rows].min())),
        "last_hour": iso(float(scene.times[rows].max())),
        "mean_intensity_g_per_kwh": float(scene.means(scene.intensity, rows)),
        "methods": {
            name: {
                "carbon_saving_pct": 100 * (1 - grams / base),
                "grams_per_request": grams,
            }
            for name, result in figures.items()
            for grams in [float(scene.means((scene.grams * result.chances).sum(axis=1), rows))]
        },
    }


def _ends(interval: Interval) -> list[float] | None:
    return None if np.isnan(interval.value) else [interval.low, interval.high]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
