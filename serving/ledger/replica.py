"""The state of one replica, as it tells the others and the operators' commands."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

# A replica writes its state this often, and whenever it changes, s.
ANNOUNCE_SECONDS = 10.0
# A replica that has not written its state for this long is away, s.
AWAY_SECONDS = 45.0
# Copy of all replicas' states in a replica's state folder, for commands without a database.
FILE = "replicas.json"
# The problem that this replica has with the database.
PROBLEM_FILE = "ledger-problem"


class Replica(BaseModel):
    """One gateway, or one process with an embedded hook.

    Attributes:
        name: host and state folder.
        seen: time at which it wrote this, Unix seconds.
        admin_url: URL of its admin port; None if it has none.
        mode: the mode that applies.
        off: why the kill switch holds it at "off"; empty if it does not.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    seen: float
    admin_url: str | None = None
    mode: str
    off: tuple[str, ...] = ()


_LIST = TypeAdapter(list[Replica])


def write_replicas(folder: Path, replicas: Sequence[Replica]) -> None:
    """Write the copy in a state folder; a full disk is no reason to fail."""
    with suppress(OSError):
        draft = folder / f".{FILE}"
        draft.write_bytes(_LIST.dump_json(list(replicas)))
        draft.replace(folder / FILE)


def read_replicas(folder: Path) -> list[Replica]:
    """Return the copy in a state folder; empty if there is none."""
    try:
        return _LIST.validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):
        return []


def write_problem(folder: Path, problem: str | None) -> None:
    """Tell the workers of a problem with the database, for /readyz; None if it can be used."""
    path = folder / PROBLEM_FILE
    with suppress(OSError):
        if problem is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(problem)


def read_problem(folder: Path) -> str | None:
    """Return the problem with the database, as the keeper last told; None if it can be used."""
    try:
        return (folder / PROBLEM_FILE).read_text() or None
    except OSError:
        return None
