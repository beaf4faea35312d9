"""The profile: outcomes of a workload under every directive, one Parquet row per pair."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from envs.arrays import BoolArray, Float64Array
from envs.errors import ConfigError
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
    pa.field("answer_model", pa.string()),
    pa.field("fingerprint", pa.string()),
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
        directives: the D directive names; column 0 is L0, the unchanged request.
        model: name of the model that answered.
        outcomes: arrays of shape (R, D); unknown qualities are NaN.
        tokens_method: "counted" (by the server), or "derived" (from seconds, by a fitted line).
        answer_models, fingerprints: models and `system_fingerprint`s that the answers named.
    """

    requests: tuple[Request, ...]
    directives: tuple[str, ...]
    model: str
    outcomes: Outcomes
    tokens_method: str = "counted"
    answer_models: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names, sorted."""
        return tuple(sorted({request.task for request in self.requests}))

    def quality(self, kind: str) -> Float64Array:
        """Return the (R, D) array of a quality: `correct` or `preference`."""
        if kind not in QUALITIES:
            raise ValueError(f"quality {kind!r}: give one of {', '.join(QUALITIES)}")
        array: Float64Array = getattr(self.outcomes, kind)
        return array

    def with_quality(self, kind: str, scores: Float64Array) -> "Profile":
        """Return the profile with a quality, `correct` or `preference`, replaced by `scores`."""
        if kind == "correct":
            return replace(self, outcomes=replace(self.outcomes, correct=scores))
        return replace(self, outcomes=replace(self.outcomes, preference=scores))

    def rows_of(self, task: str) -> BoolArray:
        """Return a mask of the task's requests, shape (R,)."""
        return np.array([request.task == task for request in self.requests], dtype=np.bool_)

    def select(self, rows: Any) -> "Profile":
        """Return the profile of the requests that `rows`, indices or a mask, selects."""
        index = np.arange(len(self.requests))[rows]
        return replace(
            self,
            requests=tuple(self.requests[i] for i in index),
            outcomes=self.outcomes.select(index),
        )

    def split(self, share_ratio: float, salt: str) -> tuple["Profile", "Profile"]:
        """Split the prompts at random, by prompt hash, into the rest and a share.

        With the same `salt`, a prompt falls on the same side in every profile.

        Args:
            share_ratio: size of the share, 0..1.
            salt: text that selects one of many possible splits.

        Returns:
            The profile of the remaining prompts, and the profile of the share.
        """
        in_split = np.array(
            [in_share(request.prompt_hash, share_ratio, salt) for request in self.requests],
            dtype=np.bool_,
        )
        return self.select(~in_split), self.select(in_split)

    def outcomes_of(self, rows: Any, actions: Any) -> Outcomes:
        """Return the recorded outcomes of requests `rows` under `actions`, each shape (n,)."""
        arrays = {name: getattr(self.outcomes, name)[rows, actions] for name in ARRAYS}
        return Outcomes(**arrays, energy_method=self.outcomes.energy_method)


def with_known_quality(profile: Profile, quality: str) -> Profile:
    """Return the requests of the tasks for which some quality is known.

    A task without references has no floor that could be checked. It is excluded from environments,
    training, floors and savings, and serving treats it as an unknown task.

    Raises:
        ConfigError: no task has a known quality.
    """
    scores = profile.quality(quality)
    rows = np.zeros(len(profile.requests), dtype=bool)
    for task in profile.tasks:
        task_rows = profile.rows_of(task)
        if not np.isnan(scores[task_rows]).any(axis=1).all():
            rows |= task_rows
    if not rows.any():
        raise ConfigError(
            f"no task of the profile has a known quality {quality!r}; record answers with "
            "references, or choose another quality"
        )
    return profile.select(rows)


def fingerprint(profile: Profile) -> str:
    """Return the SHA-256 of the profile's prompts and outcomes, in hexadecimal."""
    digest = hashlib.sha256()
    for request in profile.requests:
        digest.update(request.prompt_hash.encode())
    for name in ARRAYS:
        digest.update(np.ascontiguousarray(getattr(profile.outcomes, name)).tobytes())
    return digest.hexdigest()


def profile_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return outcome rows (mappings with SCHEMA's fields) as a table.

    A row without `device_seconds` gets its `latency_seconds`: the request is assumed to have
    used the device alone.
    """
    complete = [{"device_seconds": row.get("latency_seconds"), **row} for row in rows]
    return pa.Table.from_pylist(complete, schema=SCHEMA)


def write_profile(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write outcome rows, with the fields that `profile_table` takes, as Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(profile_table(rows), path)
