"""The evaluation on the screen."""

from collections.abc import Mapping

from rich.table import Table

from agents.methods.scene import Scene
from experiments.evaluate.result import Figures
from experiments.statistics import Interval


def means_table(tokens_method: str, figures: Mapping[str, Figures]) -> Table:
    """One row a method: what a request costs, and quality of every kind."""
    kinds = list(next(iter(figures.values())).quality)
    made = Table(title="means of a request", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    made.add_column("method", no_wrap=True)
    tokens = "tokens" if tokens_method == "counted" else f"tokens ({tokens_method})"
    for name in ("mg CO2e", tokens, "seconds", *(f"{kind} / L0" for kind in kinds)):
        made.add_column(name, justify="right")
    for name, found in figures.items():
        made.add_row(
            name,
            f"{1000 * found.grams_per_request:.2f}",
            f"{found.tokens_per_request:.1f}",
            f"{found.seconds_per_request:.2f}",
            *(f"{found.quality[kind].ratio.value:.2f}" for kind in kinds),
        )
    return made


def table(scene: Scene, figures: Mapping[str, Figures]) -> Table:
    """One row a method: saving, excess, quality of the binding kind and of the worst task."""
    made = Table(
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title=f"{len(scene)} requests of {scene.profile.model}; floors on {scene.quality}; "
        f"joules {scene.profile.outcomes.energy_method}; 95% intervals by prompt",
        caption=f"excess: over each task's frontier of fixed mixes at the same quality; under a "
        f"method: its % of {', '.join(scene.profile.directives)}, and which outcomes it knew",
    )
    for name in ("method", "saving %", "excess", "quality / L0", "worst task"):
        made.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for name, found in figures.items():
        kept = found.quality[scene.quality]
        task, worst = kept.worst(scene.floors)
        style = "" if worst.value >= scene.floors[task] - 1e-6 else "[red]"
        shares = " ".join(f"{100 * x:.0f}" for x in found.share.values())
        made.add_row(
            f"{name}\n[dim]{shares} {found.knows}",
            _with_ends(found.saving_pct, 1),
            _with_ends(found.excess_pct, 1),
            _with_ends(kept.ratio, 2),
            f"{style}{task} {_with_ends(worst, 2)}",
        )
    return made


def _with_ends(found: Interval, digits: int) -> str:
    # Adding 0 turns -0.0 into 0.0.
    value, low, high = (round(x, digits) + 0.0 for x in (found.value, found.low, found.high))
    return f"{value:.{digits}f}\n[dim]{low:.{digits}f} to {high:.{digits}f}[/]"
