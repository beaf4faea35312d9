"""The policy bundles in use, by the model that each was trained for; loaded anew in place."""

from collections.abc import Sequence
from pathlib import Path

from agents.policy.bundle import Bundle, load_bundle
from agents.policy.bundle_files import MANIFEST
from envs.carbon.intensity import Kind
from envs.errors import BundleError
from serving.hook.decider import Decider


class Policies:
    """Deciders of bundle folders. A folder without a sound bundle leaves what was there.

    Args:
        kind: of the carbon intensity that they will see; a policy that was trained on another
            is refused. None takes any.

    Attributes:
        problems: by folder, what is wrong with what lies there now.
    """

    def __init__(self, folders: Sequence[Path], kind: Kind | None = None) -> None:
        self._folders = tuple(folders)
        self._kind = kind
        self._stamps: dict[Path, tuple[int, int, int] | None] = {}
        self._by_folder: dict[Path, Decider] = {}
        self._by_model: dict[str, Decider] = {}
        self.problems: dict[Path, str] = {}
        self.refresh()

    def for_model(self, model: object) -> Decider | None:
        """The decider for a model's name."""
        return self._by_model.get(model) if isinstance(model, str) else None

    @property
    def loaded(self) -> tuple[Decider, ...]:
        """All that are in use."""
        return tuple(self._by_folder.values())

    def refresh(self, *, force: bool = False) -> bool:
        """Load what has changed; whether something is new. May take tens of milliseconds.

        A bundle is taken whole or not at all: its hashes are verified first, and requests
        see the old one until the new one stands.
        """
        changed = False
        for folder in self._folders:
            stamp = _stamp(folder)
            if stamp == self._stamps.get(folder, ()) and not force:
                continue
            self._stamps[folder] = stamp
            try:
                self._by_folder[folder] = Decider(self._checked(folder))
            except BundleError as error:
                self.problems[folder] = str(error)
                continue
            except Exception as error:
                # Whatever a folder holds, serving goes on.
                self.problems[folder] = f"{folder}: {type(error).__name__}: {error}"
                continue
            self.problems.pop(folder, None)
            changed = True
        if changed:
            self._by_model = {d.bundle.model: d for d in self._by_folder.values()}
        return changed

    def _checked(self, folder: Path) -> Bundle:
        bundle = load_bundle(folder)
        trained = bundle.intensity_kind
        if self._kind is not None and trained not in (None, self._kind):
            raise BundleError(
                f"{folder}: trained on {trained} carbon intensity, but the grid's is {self._kind}; "
                "the two must not be mixed: train on the other, or change the source"
            )
        return bundle


def _stamp(folder: Path) -> tuple[int, int, int] | None:
    # The manifest is written last, and replaced in one step.
    try:
        stat = (folder / MANIFEST).stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
