"""`sprout bench savings`: bias and coverage of the savings' estimator on simulated ledgers."""

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from experiments.bench.simulated_ledger import (
    DAY_SECONDS,
    SCENARIOS,
    Scenario,
    simulate,
    true_saving,
)
from experiments.settings import Settings, write_json
from serving.proportions import wilson
from serving.savings.estimate import MIN_DRAWS, estimate_savings


class SavingsBench(Settings):
    """Share of simulated ledgers whose 95% interval holds the true saving, and the mean error."""

    ledgers: int = Field(1000, ge=10, description="simulated ledgers of each scenario")
    json_path: Path | None = Field(
        None, alias="json", description="write the result as JSON to this file"
    )

    def cli_cmd(self) -> None:
        """Estimate the savings of all ledgers, print the figures and write the JSON result."""
        result = {}
        for scenario in SCENARIOS:
            figures = result[scenario.title] = judge(scenario, self.ledgers)
            low, high = figures["coverage_ci95"]
            print(
                f"{scenario.title}: truth {100 * figures['true_ratio']:.1f} %, mean error "
                f"{100 * figures['bias']:+.2f} points, interval {100 * figures['mean_width']:.1f} "
                f"points wide, holds the truth in {100 * figures['coverage']:.1f} % "
                f"[{100 * low:.1f}, {100 * high:.1f}] of {figures['estimates']}, "
                f"{figures['too_few_draws']} with too few draws{_rebound(figures)}"
            )
        write_json(self.json_path, {"schema": 1, "ledgers": self.ledgers, "scenarios": result})


def judge(scenario: Scenario, ledgers: int) -> dict[str, Any]:
    """Return how well the savings of joules are estimated in one scenario.

    Args:
        ledgers: number of simulated ledgers.

    Returns:
        the figures; those of the intervals are over `estimates` ledgers. `too_few_draws` counts
        the ledgers that get no estimate because an arm has fewer than `MIN_DRAWS` draws.
    """
    truth = true_saving(scenario)
    end = scenario.days * DAY_SECONDS
    results = [estimate_savings(simulate(scenario, n), 0.0, end, end) for n in range(ledgers)]
    estimates = [r["energy_joules"] for r in results if r["energy_joules"] is not None]
    intervals = np.array([estimate["ci95"] for estimate in estimates])
    held = (intervals[:, 0] <= truth["ratio"]) & (truth["ratio"] <= intervals[:, 1])
    known = [e for e in estimates if e["rebound_pct"] is not None]
    rebound = [e["rebound_pct_ci95"] for e in known]
    return {
        "true_ratio": truth["ratio"],
        "estimates": len(estimates),
        "too_few_draws": sum(min(r["draws"], r["held_out_draws"]) < MIN_DRAWS for r in results),
        "bias": float(np.mean([e["ratio"] for e in estimates]) - truth["ratio"]),
        "mean_width": float(np.mean(intervals[:, 1] - intervals[:, 0])),
        "coverage": float(held.mean()),
        "coverage_ci95": wilson(int(held.sum()), len(held)),
        "true_rebound_pct": truth["rebound_pct"],
        "rebound_estimates": len(known),
        "mean_rebound_pct": float(np.mean([e["rebound_pct"] for e in known])) if known else None,
        "rebound_coverage": float(
            np.mean([low <= truth["rebound_pct"] <= high for low, high in rebound])
        )
        if known
        else None,
    }


def _rebound(figures: dict[str, Any]) -> str:
    if figures["rebound_coverage"] is None:
        return ""
    return (
        f"; rebound {figures['true_rebound_pct']:.1f} %, mean {figures['mean_rebound_pct']:.1f} %, "
        f"holds the truth in {100 * figures['rebound_coverage']:.1f} % of "
        f"{figures['rebound_estimates']}"
    )
