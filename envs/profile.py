"""The profile: outcomes of a workload under every directive, one Parquet row a pair."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from envs.errors import DataError
from envs.outcome import QUALITIES, Floats, Outcomes
from envs.request import Request

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
    pa.field("energy_joules", pa.float64(), nullable=False),
    pa.field("energy_method", pa.string()),
    pa.field("latency_seconds", pa.float64(), nullable=False),
    pa.field("device_seconds", pa.float64()),
    pa.field("preference", pa.float64()),
    pa.field("correct", pa.float64()),
]
SCHEMA = pa.schema(FIELDS)
TEXTS = ("request_id", "task", "model", "directive")
COSTS = ("prompt_tokens", "completion_tokens", "energy_joules", "latency_seconds")
ARRAYS = (*COSTS, "device_seconds", *QUALITIES)


@dataclass(frozen=True)
class Profile:
    """Outcomes of R requests under D directives.

    Attributes:
        requests: the R requests.
        directives: the D directive names; column 0 is the untouched request.
        prompt_tokens ... preference: shape (R, D); qualities are NaN where unknown.
    """

    requests: tuple[Request, ...]
    directives: tuple[str, ...]
    model: str
    energy_method: str
    prompt_tokens: Floats
    completion_tokens: Floats
    energy_joules: Floats
    latency_seconds: Floats
    device_seconds: Floats
    correct: Floats
    preference: Floats
    responses: tuple[tuple[str, ...], ...] | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names, sorted."""
        return tuple(sorted({request.task for request in self.requests}))

    def quality(self, kind: str) -> Floats:
        """The (R, D) array of `correct` or `preference`."""
        if kind not in QUALITIES:
            raise ValueError(f"quality {kind!r}: one of {', '.join(QUALITIES)}")
        array: Floats = getattr(self, kind)
        return array

    def with_quality(self, kind: str, scores: Floats) -> "Profile":
        """The profile with another (R, D) array of `correct` or `preference`."""
        if kind == "correct":
            return replace(self, correct=scores)
        return replace(self, preference=scores)

    def rows_of(self, task: str) -> NDArray[np.bool_]:
        """Mask of the requests of a task, shape (R,)."""
        return np.array([request.task == task for request in self.requests], dtype=np.bool_)

    def select(self, rows: Any) -> "Profile":
        """The profile of some of the requests, by index or mask."""
        index = np.arange(len(self.requests))[rows]
        arrays = {name: getattr(self, name)[index] for name in ARRAYS}
        kept = None if self.responses is None else tuple(self.responses[i] for i in index)
        return Profile(
            tuple(self.requests[i] for i in index),
            self.directives,
            self.model,
            self.energy_method,
            **arrays,
            responses=kept,
        )

    def outcomes(self, rows: Any, actions: Any) -> Outcomes:
        """Recorded outcomes of requests `rows` under `actions`, each shape (n,)."""
        arrays = {name: getattr(self, name)[rows, actions] for name in ARRAYS}
        return Outcomes(**arrays, energy_method=self.energy_method)


def write_profile(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write outcome rows (mappings with SCHEMA's fields) as Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA), path)


def read_profile(
    path: Path, model: str | None = None, directives: Sequence[str] | None = None
) -> Profile:
    """Read and check a profile.

    Args:
        path: the Parquet file.
        model: which model's rows; needed only where the file holds several.
        directives: names in action order; default: as they first occur, `none` first.

    Raises:
        DataError: naming file, row and field: unreadable file, missing column, wrong
            type, NaN or negative cost, quality outside 0..1, duplicate row, request
            without one of the directives.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(path, f"no readable Parquet ({error})", "give a profile") from error
    if table.num_rows == 0:
        raise DataError(path, "holds no rows", "record some with `sprout profile`")
    columns = _columns(path, table)
    columns = _of_model(path, columns, model)
    names = list(dict.fromkeys(columns["directive"]))
    if directives is None:
        names.sort(key=lambda name: name != "none")
    else:
        unknown = set(names) - set(directives)
        if unknown:
            raise DataError(path, f"directive {sorted(unknown)}", f"expected {list(directives)}")
        names = list(directives)
    return _assembled(path, columns, tuple(names))


def _columns(path: Path, table: pa.Table) -> dict[str, list[Any]]:
    have = set(table.column_names)
    prompt = "messages" if "messages" in have else "prompt"
    for name in (*TEXTS, *COSTS, prompt):
        if name not in have:
            raise DataError(path, f"column {name!r} is missing", f"columns are {SCHEMA.names}")
    columns: dict[str, list[Any]] = {}
    for name in (*TEXTS, prompt):
        if not pa.types.is_string(table.schema.field(name).type) and not pa.types.is_large_string(
            table.schema.field(name).type
        ):
            kind = table.schema.field(name).type
            raise DataError(path, f"column {name!r} is {kind}", "it must be text")
        columns[name] = table[name].to_pylist()
        if None in columns[name]:
            raise DataError(path, f"row {columns[name].index(None)} {name} is null", "give text")
    if prompt == "prompt":
        columns["messages"] = [
            json.dumps([{"role": "user", "content": text}]) for text in columns.pop("prompt")
        ]
    for name in (*COSTS, *QUALITIES):
        columns[name] = _numbers(path, table, name)
    # Without batching a request has the device to itself for as long as it takes.
    device = "device_seconds" if "device_seconds" in have else "latency_seconds"
    columns["device_seconds"] = _numbers(path, table, device)
    for name in ("reference", "difficulty", "response", "energy_method"):
        columns[name] = (
            table[name].to_pylist() if name in have else [None] * len(columns["request_id"])
        )
    return columns


def _numbers(path: Path, table: pa.Table, name: str) -> list[Any]:
    if name not in table.column_names:
        return [float("nan")] * table.num_rows
    kind = table.schema.field(name).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise DataError(path, f"column {name!r} is {kind}", "it must be a number")
    values = np.array(
        [np.nan if v is None else v for v in table[name].to_pylist()], dtype=np.float64
    )
    with np.errstate(invalid="ignore"):
        if name not in QUALITIES:
            wrong, right = ~(values >= 0) | np.isinf(values), "0 or more"
        else:
            wrong, right = (values < 0) | (values > 1), "0 to 1, or null"
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(path, f"row {row} {name} is {values[row]}", f"it must be {right}")
    numbers: list[Any] = values.tolist()
    return numbers


def _of_model(path: Path, columns: dict[str, list[Any]], model: str | None) -> dict[str, list[Any]]:
    models = sorted(set(columns["model"]))
    if model is None and len(models) == 1:
        return columns
    if model not in models:
        raise DataError(path, f"model {model!r}", f"name one of {models}")
    keep = [i for i, name in enumerate(columns["model"]) if name == model]
    return {name: [values[i] for i in keep] for name, values in columns.items()}


def _chat(path: Path, row: int, text: str) -> tuple[dict[str, Any], ...]:
    try:
        chat = json.loads(text)
    except ValueError:
        chat = None
    if not isinstance(chat, list) or not all(isinstance(message, dict) for message in chat):
        raise DataError(path, f"row {row} messages is no chat", "give a JSON list of messages")
    return tuple(chat)


def _assembled(path: Path, columns: dict[str, list[Any]], names: tuple[str, ...]) -> Profile:
    place: dict[str, int] = {}
    requests: list[Request] = []
    for row, request_id in enumerate(columns["request_id"]):
        if request_id not in place:
            place[request_id] = len(requests)
            requests.append(
                Request(
                    request_id,
                    columns["task"][row],
                    _chat(path, row, columns["messages"][row]),
                    columns["reference"][row],
                    columns["difficulty"][row],
                )
            )
    shape = (len(requests), len(names))
    column_of = {name: i for i, name in enumerate(names)}
    row_at = np.full(shape, -1, dtype=np.int64)
    for row, (request_id, name) in enumerate(
        zip(columns["request_id"], columns["directive"], strict=True)
    ):
        cell = place[request_id], column_of[name]
        if row_at[cell] >= 0:
            raise DataError(
                path, f"row {row}: request {request_id!r} directive {name!r} twice", "give it once"
            )
        row_at[cell] = row
    if (row_at < 0).any():
        r, d = np.argwhere(row_at < 0)[0]
        raise DataError(
            path,
            f"request {requests[r].request_id!r} lacks directive {names[d]!r}",
            f"every request needs {', '.join(names)}",
        )
    arrays = {name: np.array(columns[name])[row_at] for name in ARRAYS}
    responses = None
    if None not in columns["response"]:
        responses = tuple(tuple(columns["response"][i] for i in line) for line in row_at)
    methods = {method or "unlabelled" for method in columns["energy_method"]}
    return Profile(
        tuple(requests),
        names,
        columns["model"][0],
        "/".join(sorted(methods)),
        **arrays,
        responses=responses,
    )
