"""The guard's level and the sampled share of each cell, in a file of the state folder.

A cell is the requests of one task to one model in one zone. The replica's parent process writes the
file, and workers read it, so that no request waits for the database.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from serving.file_stamp import FileStamp, file_stamp

FILE = "guard.json"
# Levels at which the policy does not choose as the asked floor has it.
MOVED = ("raised", "l0")


class CellSetting(BaseModel):
    """The way in which the requests of one cell are served.

    Attributes:
        model, task, zone: the cell; `task` is empty for requests without a tag.
        level: "asked" serves them as the floors ask; "raised" at the price of a higher floor;
            "eased" at that of a lower one; "l0" without a directive.
        floor: the higher or lower floor.
        asked: the floor that a lower one takes the place of; any other floor stays.
        share: share of the requests that are sampled; None for that of the hook's settings.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str
    task: str
    zone: str
    level: Literal["eased", "asked", "raised", "l0"] = "asked"
    floor: float | None = None
    asked: float | None = None
    share: float | None = None


_LIST = TypeAdapter(list[CellSetting])


class GuardLevels:
    """The cells' settings, as one process knows them.

    Args:
        folder: the replica's state folder.
        watched: whether quality is watched now. If not, nothing could give a task back that was
            withdrawn earlier, so all are served as asked.
    """

    def __init__(self, folder: Path, *, watched: bool = True) -> None:
        self._watched = watched
        self._path = folder / FILE
        self._stamp: FileStamp | None = None
        self._cells: dict[tuple[str, str, str], CellSetting] = {}
        self.refresh()

    def of(self, model: str, task: str, zone: str) -> CellSetting | None:
        """Return a cell's settings; None if it has none of its own."""
        return self._cells.get((model, task, zone))

    @property
    def moved(self) -> list[CellSetting]:
        """The cells whose quality fell below its floor."""
        return [cell for cell in self._cells.values() if cell.level in MOVED]

    def refresh(self) -> None:
        """Read the file if it has changed; if it is damaged, the last settings stay."""
        stamp = file_stamp(self._path)
        if not self._watched or stamp in (None, self._stamp):
            return
        try:
            cells = _LIST.validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return
        self._cells = {(cell.model, cell.task, cell.zone): cell for cell in cells}
        self._stamp = stamp


def write_levels(folder: Path, cells: Sequence[CellSetting]) -> None:
    """Replace the file atomically.

    Raises:
        OSError: the file cannot be written.
    """
    draft = folder / f"{FILE}.{os.getpid()}"
    draft.write_bytes(_LIST.dump_json(list(cells)))
    draft.replace(folder / FILE)
