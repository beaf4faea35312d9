"""The evaluation on the screen."""

from collections.abc import Mapping

from rich.table import Table

from agents.scene import Scene
from experiments.evaluate.result import Figures
from experiments.statistics import Interval


def table(scene: Scene, figures: Mapping[str, Figures]) -> Table:
    """One row a method: saving, excess, quality of the binding kind and of the worst task."""
    made = Table(
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title=f"{len(scene)} requests; floors on {scene.quality}; joules "
        f"{scene.profile.energy_method}; 95% intervals by prompt",
        caption=f"excess: over each task's frontier of fixed mixes at the same quality; under a "
        f"method: its % of {', '.join(scene.profile.directives)}, and which outcomes it knew",
    )
    for name in ("method", "saving %", "excess", "quality / L0", "worst task"):
        made.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for name, found in figures.items():
        kept = found.quality[scene.quality]
        task, worst = kept.worst
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
    return f"{found.value:.{digits}f}\n[dim]{found.low:.{digits}f} to {found.high:.{digits}f}[/]"
