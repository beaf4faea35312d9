"""W&B tracking, or none: `WANDB_MODE` is respected, and offline is the default without a key."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

RUN_ID = "run-id"


class Run(Protocol):
    """A tracked run."""

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
        """Keep files as a versioned artifact, or only where they are and their checksums.

        Args:
            files: the first one's folder is the artifact's root.
            about: its metadata; under "digest", what `sprout link` knows it by.
            copied: not for files that hold prompts: those stay where they are.
        """


class NullRun:
    """Tracks nothing."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Nothing."""

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Nothing."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Nothing."""

    def picture(self, name: str, path: Path) -> None:
        """Nothing."""

    def artifact(
        self, name: str, kind: str, files: Sequence[Path], about: Any = None, *, copied: bool = True
    ) -> None:
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
        """Log files as an artifact of type `kind`."""
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
    """A W&B run with `configuration`, its files under `folder`.

    `WANDB_MODE=disabled` gives a run that tracks nothing. Unset, the mode is online
    where a key is set (WANDB_API_KEY) and offline otherwise (`wandb sync` later). W&B shows
    a run as failed when the context ends by an exception, which goes on to the caller.

    Args:
        group: runs of one study stand together; a sweep's do by themselves, and
            WANDB_RUN_GROUP goes before both.
        resume: go on with the run that `folder` holds, under its id.
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
    sweep = os.environ.get("WANDB_SWEEP_ID")
    known = folder / RUN_ID
    run_id = known.read_text(encoding="utf-8").strip() if resume and known.exists() else None
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
    # Not `with run`: W&B would print a traceback of its own before the command says what is wrong.
    try:
        known.write_text(run.id, encoding="utf-8")
        yield WandbRun(run)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()
