"""Models that the hook does not steer for now: their requests go to mode "shadow".

Found by the keeper, from the answers, and kept in a file of the state folder; or found by a
worker, from what the upstream lists.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from serving.file_stamp import FileStamp, file_stamp

FILE = "suspended.json"


class Finding(BaseModel):
    """Why a model is not steered.

    Attributes:
        version: version of the policy bundle that the model does not fit.
        text: the reason, for an operator.
        expected: names that the model's answers should have; empty if the reason is another one.
    """

    version: str
    text: str
    expected: tuple[str, ...] = ()


# By model and by kind of finding.
Findings = dict[str, dict[str, Finding]]
_FINDINGS = TypeAdapter(Findings)


class Suspensions:
    """The models that are not steered, as one process knows them.

    Args:
        folder: the replica's state folder.

    Attributes:
        unlisted: for each model that its upstream does not list, the reason.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._stamp: FileStamp | None = None
        self._found: Findings = {}
        self.unlisted: dict[str, str] = {}
        self.refresh()

    def __contains__(self, model: str | None) -> bool:
        return model in self._found or model in self.unlisted

    @property
    def reasons(self) -> dict[str, str]:
        """The reason for each model."""
        found = {
            model: "; ".join(finding.text for finding in kinds.values())
            for model, kinds in self._found.items()
        }
        return found | self.unlisted

    def refresh(self) -> None:
        """Read the file if it has changed."""
        stamp = file_stamp(self._path)
        if stamp not in (None, self._stamp):
            self._found, self._stamp = read_findings(self._path.parent), stamp


def read_findings(folder: Path) -> Findings:
    """Return the findings in a state folder; none if the file is missing or damaged."""
    try:
        return _FINDINGS.validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):
        return {}


def write_findings(folder: Path, findings: Mapping[str, Mapping[str, Finding]]) -> None:
    """Replace the file atomically.

    Raises:
        OSError: the file cannot be written.
    """
    draft = folder / f"{FILE}.{os.getpid()}"
    draft.write_bytes(_FINDINGS.dump_json({m: dict(kinds) for m, kinds in findings.items()}))
    draft.replace(folder / FILE)
