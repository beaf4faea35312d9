"""An ablation's picture: each variant's figures with their intervals."""

from pathlib import Path

from experiments.study.tidy import Summary

PANELS = (
    ("iqm", "excess over the fixed mixes' frontier,\npoints of each task (IQM)"),
    ("saving", "carbon saved, %"),
    ("margin", "worst task's quality less its floor"),
)


def draw(summary: Summary, title: str, path: Path) -> None:
    """One row a variant, one panel a figure; bars are 95% intervals over the runs."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    variants = list(summary.iqm)
    figure, panels = plt.subplots(
        1, len(PANELS), figsize=(11, 1.6 + 0.42 * len(variants)), sharey=True
    )
    for panel, (name, label) in zip(panels, PANELS, strict=True):
        found = getattr(summary, name)
        for place, variant in enumerate(variants):
            one = found[variant]
            color = "tab:green" if place == 0 else "tab:blue"
            panel.plot([one.low, one.high], [place, place], color=color, linewidth=5, alpha=0.35)
            panel.plot(one.value, place, "o", color=color)
        reference = found[variants[0]].value
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
