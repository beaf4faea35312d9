"""The figure of an ablation: each variant's results with their intervals."""

from pathlib import Path

from experiments.study.tidy import Summary

PANELS = (
    ("excess", "excess over the frontier of fixed mixes,\npoints of each task"),
    ("saving", "carbon saved, %"),
    ("margin", "quality minus floor of the worst task"),
)


def draw(summary: Summary, title: str, path: Path) -> None:
    """Draw a row per variant and a panel per measure; bars are 95% intervals, where known."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    variants = list(summary.excess)
    figure, panels = plt.subplots(
        1, len(PANELS), figsize=(11, 1.6 + 0.42 * len(variants)), sharey=True
    )
    for panel, (name, label) in zip(panels, PANELS, strict=True):
        intervals = getattr(summary, name)
        for row, variant in enumerate(variants):
            interval = intervals[variant]
            color = "tab:green" if row == 0 else "tab:blue"
            ends = [interval.low, interval.high]
            panel.plot(ends, [row, row], color=color, linewidth=5, alpha=0.35)
            panel.plot(interval.value, row, "o", color=color)
        reference = intervals[variants[0]].value
        panel.axvline(reference, color="tab:green", linewidth=0.8, linestyle=":")
        if name != "saving":
            panel.axvline(0, color="black", linewidth=0.6)
        panel.set_xlabel(label)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(variants)), variants)
    panels[0].invert_yaxis()
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
