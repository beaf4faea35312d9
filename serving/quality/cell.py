"""A cell: the unit whose quality is watched."""

import json
from typing import NamedTuple


class Cell(NamedTuple):
    """The requests of one task to one model in one zone; an empty task stands for untagged ones."""

    model: str
    task: str
    zone: str

    @property
    def key(self) -> str:
        """The cell as text."""
        return json.dumps(self)

    @classmethod
    def from_key(cls, key: str) -> "Cell":
        """Return the cell of a `key`."""
        return cls(*json.loads(key))
