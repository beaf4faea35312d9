"""Tables of an evaluation for the terminal."""

from collections.abc import Mapping

from rich.table import Table

from agents.methods.scene import Scene
from experiments.evaluate.result import Figures
from experiments.statistics import Interval


def means_table(tokens_method: str, figures: Mapping[str, Figures]) -> Table:
    """Return a table of each method's mean costs per request and of every kind of quality.

    Args:
        tokens_method: how the token counts were determined; shown unless it is "counted".
    """
    kinds = list(next(iter(figures.values())).quality)
    view = Table(title="means per request", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    view.add_column("method", no_wrap=True)
    tokens = "tokens" if tokens_method == "counted" else f"tokens ({tokens_method})"
    for name in ("mg CO2e", tokens, "seconds", *(f"{kind} / L0" for kind in kinds)):
        view.add_column(name, justify="right")
    for name, result in figures.items():
        view.add_row(
            name,
            f"{1000 * result.grams_per_request:.2f}",
            f"{result.tokens_per_request:.1f}",
            f"{result.seconds_per_request:.2f}",
            *(f"{result.quality[kind].ratio.value:.2f}" for kind in kinds),
        )
    return view


def table(scene: Scene, figures: Mapping[str, Figures]) -> Table:
    """Return a table of each method's saving, excess, quality, and quality of its worst task."""
    view = Table(
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title=f"{len(scene)} requests of {scene.profile.model}{_pooled(scene)}; floors on "
        f"{scene.quality}; "
        f"energy {scene.profile.outcomes.energy_method}; 95% intervals by prompt",
        caption=f"excess: saving beyond each task's frontier of fixed mixes at the same quality; "
        f"below a method: its shares of {', '.join(scene.profile.directives)} in %, and the "
        "outcomes that it knew",
    )
    for name in ("method", "saving %", "excess", "quality / L0", "worst task", "in a zone"):
        view.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for name, result in figures.items():
        quality = result.quality[scene.quality]
        task, worst = quality.worst(scene.floors)
        style = "" if worst.value >= scene.floors[task] - 1e-6 else "[red]"
        shares = " ".join(f"{100 * x:.0f}" for x in result.share.values())
        view.add_row(
            f"{name}\n[dim]{shares} {result.knows}",
            _with_ends(result.saving_pct, 1),
            _with_ends(result.excess_pct, 1),
            _with_ends(quality.ratio, 2),
            f"{style}{task} {_with_ends(worst, 2)}",
            _worst_cell(result),
        )
    return view


def _pooled(scene: Scene) -> str:
    return f", pooled over {len(scene.traces)} zones" if len(scene.traces) > 1 else ""


def _worst_cell(result: Figures) -> str:
    """Return the worst task in a zone, and the number of missed floors by zone and by month."""
    if not result.cells:
        return ""
    cell = result.cells[0]
    style = "" if cell.margin >= -1e-6 else "[red]"
    missed = sum(c.missed for c in result.cells), sum(c.missed for c in result.month_cells)
    place = f"{cell.task} {cell.ratio.value:.2f} {cell.zone}"
    return f"{style}{place}\n[dim]missed: {missed[0]} zones, {missed[1]} months[/]"


def _with_ends(interval: Interval, digits: int) -> str:
    ends = (interval.value, interval.low, interval.high)
    # Adding 0 turns -0.0 into 0.0.
    value, low, high = (round(x, digits) + 0.0 for x in ends)
    return f"{value:.{digits}f}\n[dim]{low:.{digits}f} to {high:.{digits}f}[/]"
