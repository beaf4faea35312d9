"""Tracking of runs in Weights & Biases; `WANDB_MODE` is respected, offline without a key."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

RUN_ID = "run-id"


class Run(Protocol):
    """A run that figures and files are recorded in."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Record figures at a step."""

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Record the run's final figures."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Record a table."""

    def picture(self, name: str, path: Path) -> None:
        """Record a picture."""

    def artifact(
        self, name: str, kind: str, files: Sequence[Path], about: Any = None, *, copied: bool = True
    ) -> None:
        """Record files as a versioned artifact.

        Args:
            name: name of the artifact.
            kind: type of the artifact.
            files: the files; the folder of the first one is the artifact's root.
            about: metadata of the artifact; `sprout link` finds the artifact by its "digest".
            copied: False records only paths and checksums, for files that contain prompts.
        """


class NullRun:
    """A run that records nothing."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Do nothing."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Do nothing."""

    def picture(self, name: str, path: Path) -> None:
        """Do nothing."""

    def artifact(
        self, name: str, kind: str, files: Sequence[Path], about: Any = None, *, copied: bool = True
    ) -> None:
        """Do nothing."""


class WandbRun:
    """A run in Weights & Biases."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Record figures at a step."""
        self._run.log(dict(figures), step=step)

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Update the run's summary."""
        self._run.summary.update(dict(figures))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a W&B table."""
        import wandb

        self._run.log({name: wandb.Table(list(columns), [list(row) for row in rows])})

    def picture(self, name: str, path: Path) -> None:
        """Log an image."""
        import wandb

        self._run.log({name: wandb.Image(str(path))})

    def artifact(
        self, name: str, kind: str, files: Sequence[Path], about: Any = None, *, copied: bool = True
    ) -> None:
        """Log files as an artifact of type `kind`, or references to them if not `copied`."""
        import wandb

        artifact = wandb.Artifact(name, type=kind, metadata=about)
        for file in files:
            if copied:
                artifact.add_file(str(file), name=file.relative_to(files[0].parent).as_posix())
            else:
                artifact.add_reference(file.resolve().as_uri())
        self._run.log_artifact(artifact)


@contextmanager
def tracked(
    configuration: Mapping[str, Any], folder: Path, group: str, *, resume: bool = False
) -> Iterator[Run]:
    """Track a run in W&B until the context ends.

    `WANDB_MODE=disabled` gives a run that records nothing. If the variable is not set, the mode is
    online if there is a key (WANDB_API_KEY), and offline otherwise (for a later `wandb sync`).
    If the context ends with an exception, W&B shows the run as failed and the caller gets the
    exception.

    Args:
        configuration: settings of the run.
        folder: folder for W&B's files.
        group: group of the run, for runs of one study. A sweep's runs get a group by sweep, and
            WANDB_RUN_GROUP overrides both.
        resume: continue the run whose id is stored in `folder`.
    """
    mode = os.environ.get("WANDB_MODE") or (
        "online" if os.environ.get("WANDB_API_KEY") else "offline"
    )
    if mode == "disabled":
        yield NullRun()
        return
    # An empty variable counts as unset; wandb itself would reject the empty value.
    os.environ["WANDB_MODE"] = mode
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    sweep = os.environ.get("WANDB_SWEEP_ID")
    id_file = folder / RUN_ID
    run_id = id_file.read_text(encoding="utf-8").strip() if resume and id_file.exists() else None
    settings = wandb.Settings(mode=mode, silent=True, console="off")
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "sprout-rl"),
        group=os.environ.get("WANDB_RUN_GROUP") or (f"sweep-{sweep}" if sweep else group),
        dir=str(folder),
        config=dict(configuration),
        id=run_id,
        resume="allow" if run_id else None,
        settings=settings,
    )
    # Not `with run`, because W&B would print a traceback before the command's own error message.
    try:
        id_file.write_text(run.id, encoding="utf-8")
        yield WandbRun(run)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()
