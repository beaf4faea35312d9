"""The policy bundles in use, one per model; changed bundles are loaded while serving."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agents.policy.bundle import Bundle, load_bundle
from agents.policy.bundle_files import MANIFEST
from envs.carbon.intensity import Kind
from envs.errors import BundleError
from envs.requests.directive import Place
from serving.file_stamp import FileStamp, file_stamp
from serving.hook.decider import Decider


class Policies:
    """Deciders of the bundles in some folders.

    If a folder's bundle becomes invalid, the bundle loaded before stays in use.

    Args:
        folders: one bundle in each.
        kind: kind of carbon intensity that decisions will use; a policy trained on another
            kind is refused. None accepts any kind.
        place: place of the directives' texts; None leaves it as in the bundles.
        explore: see `Decider`.

    Attributes:
        problems: for each folder whose current bundle is refused, the reason.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        kind: Kind | None = None,
        place: Place | None = None,
        explore: float = 0.0,
    ) -> None:
        self._folders = tuple(folders)
        self._kind = kind
        self._place = place
        self._explore = explore
        self._stamps: dict[Path, FileStamp | None] = {}
        self._by_folder: dict[Path, Decider] = {}
        self._by_model: dict[str, Decider] = {}
        self.problems: dict[Path, str] = {}
        self.refresh()

    def for_model(self, model: object) -> Decider | None:
        """Return the decider for a model's name, or None if no bundle is for that model."""
        return self._by_model.get(model) if isinstance(model, str) else None

    @property
    def loaded(self) -> tuple[Decider, ...]:
        """All deciders in use."""
        return tuple(self._by_folder.values())

    def reaches(self, model: str, task: str, zone: str, floor: float) -> bool:
        """Return whether some price of a model's policy alone keeps a floor; see `Pricing`."""
        decider = self.for_model(model)
        return decider is not None and decider.pricing(zone).reaches(task, floor)

    def refresh(self, *, force: bool = False) -> bool:
        """Load the bundles that have changed; return whether any was loaded.

        May take tens of milliseconds. A bundle replaces the old one only when it is completely
        loaded and its hashes are verified; until then requests use the old one.

        Args:
            force: load all bundles, changed or not.
        """
        changed = False
        for folder in self._folders:
            # The manifest suffices: it is written last, in one atomic step.
            stamp = file_stamp(folder / MANIFEST)
            if stamp == self._stamps.get(folder, ()) and not force:
                continue
            self._stamps[folder] = stamp
            try:
                self._by_folder[folder] = Decider(self._checked(folder), self._explore)
            except BundleError as error:
                self.problems[folder] = str(error)
                continue
            except Exception as error:
                # No content of a folder may stop serving.
                self.problems[folder] = f"{folder}: {type(error).__name__}: {error}"
                continue
            self.problems.pop(folder, None)
            changed = True
        if changed:
            self._by_model = {d.bundle.model: d for d in self._by_folder.values()}
        return changed

    def use_kind(self, kind: Kind | None) -> None:
        """Decide on another kind of carbon intensity; refuse the bundles that do not fit it."""
        if kind == self._kind:
            return
        self._kind = kind
        # A bundle that was refused may fit now.
        self._stamps.clear()
        for folder, decider in list(self._by_folder.items()):
            if (problem := self._kind_problem(folder, decider.bundle)) is not None:
                del self._by_folder[folder]
                self.problems[folder] = problem
        self._by_model = {d.bundle.model: d for d in self._by_folder.values()}

    def _checked(self, folder: Path) -> Bundle:
        bundle = load_bundle(folder)
        if (problem := self._kind_problem(folder, bundle)) is not None:
            raise BundleError(problem)
        return replace(bundle, catalogue=bundle.catalogue.placed(self._place))

    def _kind_problem(self, folder: Path, bundle: Bundle) -> str | None:
        trained_kind = bundle.intensity_kind
        if self._kind is None or trained_kind in (None, self._kind):
            return None
        return (
            f"{folder}: trained on {trained_kind} carbon intensity, but the grid's is "
            f"{self._kind}; train on {self._kind} intensity, or change the intensity source"
        )
