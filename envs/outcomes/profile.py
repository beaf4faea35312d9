"""The profile: outcomes of a workload under every directive, one Parquet row a pair."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from envs.arrays import BoolArray, Float64Array
from envs.outcomes.outcome import ARRAYS, QUALITIES, Outcomes
from envs.requests.request import Request, in_share

FIELDS: "list[pa.Field[Any]]" = [
    pa.field("request_id", pa.string(), nullable=False),
    pa.field("task", pa.string(), nullable=False),
    pa.field("model", pa.string(), nullable=False),
    pa.field("directive", pa.string(), nullable=False),
    pa.field("messages", pa.string(), nullable=False),
    pa.field("reference", pa.string()),
    pa.field("difficulty", pa.int32()),
    pa.field("response", pa.string()),
    pa.field("prompt_tokens", pa.int32(), nullable=False),
    pa.field("completion_tokens", pa.int32(), nullable=False),
    pa.field("tokens_method", pa.string()),
    pa.field("energy_joules", pa.float64(), nullable=False),
    pa.field("energy_method", pa.string()),
    pa.field("latency_seconds", pa.float64(), nullable=False),
    pa.field("device_seconds", pa.float64()),
    pa.field("preference", pa.float64()),
    pa.field("correct", pa.float64()),
]
SCHEMA = pa.schema(FIELDS)
COSTS = ("prompt_tokens", "completion_tokens", "energy_joules", "latency_seconds")


@dataclass(frozen=True)
class Profile:
    """Outcomes of R requests under D directives.

    Attributes:
        requests: the R requests.
        directives: the D directive names; column 0 is the untouched request.
        outcomes: arrays of shape (R, D); qualities are NaN where they are unknown.
        tokens_method: "counted" by the server, or "derived" from seconds by a fitted line.
    """

    requests: tuple[Request, ...]
    directives: tuple[str, ...]
    model: str
    outcomes: Outcomes
    tokens_method: str = "counted"

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names, sorted."""
        return tuple(sorted({request.task for request in self.requests}))

    def quality(self, kind: str) -> Float64Array:
        """The (R, D) array of `correct` or `preference`."""
        if kind not in QUALITIES:
            raise ValueError(f"quality {kind!r}: one of {', '.join(QUALITIES)}")
        array: Float64Array = getattr(self.outcomes, kind)
        return array

    def with_quality(self, kind: str, scores: Float64Array) -> "Profile":
        """The profile with another (R, D) array of `correct` or `preference`."""
        if kind == "correct":
            return replace(self, outcomes=replace(self.outcomes, correct=scores))
        return replace(self, outcomes=replace(self.outcomes, preference=scores))

    def rows_of(self, task: str) -> BoolArray:
        """Mask of the requests of a task, shape (R,)."""
        return np.array([request.task == task for request in self.requests], dtype=np.bool_)

    def select(self, rows: Any) -> "Profile":
        """The profile of some of the requests, by index or mask."""
        index = np.arange(len(self.requests))[rows]
        return replace(
            self,
            requests=tuple(self.requests[i] for i in index),
            outcomes=self.outcomes.select(index),
        )

    def split(self, share_ratio: float, salt: str) -> tuple["Profile", "Profile"]:
        """The other prompts, and a random share of the prompts, chosen by prompt hash.

        A prompt falls on the same side of a `salt` in every profile that holds it.
        """
        chosen = np.array(
            [in_share(request.prompt_hash, share_ratio, salt) for request in self.requests],
            dtype=np.bool_,
        )
        return self.select(~chosen), self.select(chosen)

    def outcomes_of(self, rows: Any, actions: Any) -> Outcomes:
        """Recorded outcomes of requests `rows` under `actions`, each shape (n,)."""
        arrays = {name: getattr(self.outcomes, name)[rows, actions] for name in ARRAYS}
        return Outcomes(**arrays, energy_method=self.outcomes.energy_method)


def fingerprint(profile: Profile) -> str:
    """SHA-256 over the profile's prompts and outcomes."""
    digest = hashlib.sha256()
    for request in profile.requests:
        digest.update(request.prompt_hash.encode())
    for name in ARRAYS:
        digest.update(np.ascontiguousarray(getattr(profile.outcomes, name)).tobytes())
    return digest.hexdigest()


def profile_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Outcome rows (mappings with SCHEMA's fields) as a table.

    Without `device_seconds` a request is taken to have had the device to itself for its
    `latency_seconds`.
    """
    whole = [{"device_seconds": row.get("latency_seconds"), **row} for row in rows]
    return pa.Table.from_pylist(whole, schema=SCHEMA)


def write_profile(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write outcome rows as Parquet; see `profile_table`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(profile_table(rows), path)
