"""W&B tracking, or none: `WANDB_MODE` is respected, and offline is the default without a key."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol


class Run(Protocol):
    """A tracked run."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Record figures at a step."""

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Record the run's final figures."""

    def artifact(self, name: str, kind: str, folder: Path) -> None:
        """Keep the files of a folder as a versioned artifact."""


class NullRun:
    """Tracks nothing."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Nothing."""

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Nothing."""

    def artifact(self, name: str, kind: str, folder: Path) -> None:
        """Nothing."""


class WandbRun:
    """Tracks in Weights & Biases."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Record figures at a step."""
        self._run.log(dict(figures), step=step)

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Write into the run's summary."""
        self._run.summary.update(dict(figures))

    def artifact(self, name: str, kind: str, folder: Path) -> None:
        """Log the files of `folder` as an artifact of type `kind`."""
        import wandb

        artifact = wandb.Artifact(name, type=kind)
        for file in sorted(folder.iterdir()):
            if file.is_file():
                artifact.add_file(str(file))
        self._run.log_artifact(artifact)


@contextmanager
def tracked(configuration: Mapping[str, Any], folder: Path, group: str) -> Iterator[Run]:
    """A W&B run with `configuration`, its files under `folder`.

    `WANDB_MODE=disabled` gives a run that tracks nothing. Unset, the mode is online
    where a key is set (WANDB_API_KEY) and offline otherwise (`wandb sync` later).
    """
    mode = os.environ.get("WANDB_MODE") or (
        "online" if os.environ.get("WANDB_API_KEY") else "offline"
    )
    if mode == "disabled":
        yield NullRun()
        return
    # Set but empty means unset; wandb itself would refuse it.
    os.environ["WANDB_MODE"] = mode
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(mode=mode, silent=True, console="off")
    with wandb.init(
        project=os.environ.get("WANDB_PROJECT", "sprout-rl"),
        group=group,
        dir=str(folder),
        config=dict(configuration),
        settings=settings,
    ) as run:
        yield WandbRun(run)
