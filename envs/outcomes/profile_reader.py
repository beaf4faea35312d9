"""Reads a profile strictly: what is wrong is named by file, row and field; nothing is guessed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from envs.errors import DataError
from envs.outcomes.outcome import ARRAYS, QUALITIES, Outcomes
from envs.outcomes.profile import COSTS, SCHEMA, Profile
from envs.plausible import check_outcomes
from envs.requests.request import Request

TEXTS = ("request_id", "task", "model", "directive")
Columns = dict[str, list[Any]]
REMEDY = "give a profile, or make one with `sprout import`"
OPTIONAL = ("reference", "difficulty", "response", "energy_method", "tokens_method")


def read_profile(
    path: Path, model: str | None = None, directives: Sequence[str] | None = None
) -> Profile:
    """Read and check a profile.

    Args:
        path: the Parquet file.
        model: which model's rows; needed only where the file holds several that were
            run under more than one directive.
        directives: names in action order; default: as they first occur, `none` first.

    Raises:
        DataError: naming file, row and field: unreadable file, missing column, wrong
            type, empty text, NaN or negative cost, quality outside 0..1, duplicate row,
            a request without one of the directives or with two tasks or prompts.
        UnitError: energies that can only be in another unit than joules.
    """
    if not path.exists():
        raise DataError(path, "no such file", REMEDY)
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(path, f"no readable Parquet ({error})", REMEDY) from error
    return check_table(path, table, model, directives)


def check_table(
    path: Path | str,
    table: pa.Table,
    model: str | None = None,
    directives: Sequence[str] | None = None,
) -> Profile:
    """The profile in a table that came from `path`; as `read_profile`."""
    if table.num_rows == 0:
        raise DataError(path, "holds no rows", "record some with `sprout profile`")
    columns = _of_model(path, _columns(path, table), model)
    names = list(dict.fromkeys(columns["directive"]))
    if directives is None:
        if "none" not in names:
            raise DataError(
                path, f"no row of directive 'none' among {names}", "record requests left alone too"
            )
        names.sort(key=lambda name: name != "none")
    else:
        unknown = set(names) - set(directives)
        if unknown:
            raise DataError(path, f"directive {sorted(unknown)}", f"expected {list(directives)}")
        names = list(directives)
    return _assembled(path, columns, tuple(names))


def _columns(path: Path | str, table: pa.Table) -> Columns:
    have = set(table.column_names)
    prompt = "messages" if "messages" in have else "prompt"
    required = (*TEXTS, prompt, *COSTS)
    missing = [repr(name) for name in required if name not in have]
    if missing:
        verb = "column {} is" if len(missing) == 1 else "columns {} are"
        raise DataError(
            path,
            f"{verb.format(', '.join(missing))} missing",
            f"required are {', '.join(required)}; others may be {_others(required)}",
        )
    # Errors give the file's own row, also after another model's rows are left out.
    columns: Columns = {"row": list(range(table.num_rows))}
    for name in (*TEXTS, prompt):
        kind = table.schema.field(name).type
        if not _is_text(kind):
            raise DataError(path, f"column {name!r} is {kind}", "it must be text")
        columns[name] = table[name].to_pylist()
        empty = next((i for i, text in enumerate(columns[name]) if not text), None)
        if empty is not None:
            raise DataError(path, f"row {empty} {name} is empty", "give text")
    if prompt == "prompt":
        columns["messages"] = [
            json.dumps([{"role": "user", "content": text}]) for text in columns.pop("prompt")
        ]
    for name in (*COSTS, *QUALITIES):
        columns[name] = _numbers(path, table, name)
    # Without batching a request has the device to itself for as long as it takes.
    device = "device_seconds" if "device_seconds" in have else "latency_seconds"
    columns["device_seconds"] = _numbers(path, table, device)
    for name in OPTIONAL:
        columns[name] = _optional(path, table, name)
    return columns


def _others(required: Sequence[str]) -> str:
    return ", ".join(name for name in SCHEMA.names if name not in required)


def _optional(path: Path | str, table: pa.Table, name: str) -> list[Any]:
    if name not in table.column_names:
        return [None] * table.num_rows
    kind = table.schema.field(name).type
    whole = name == "difficulty"
    right = pa.types.is_integer(kind) if whole else _is_text(kind)
    if not (right or pa.types.is_null(kind)):
        must = "a whole number" if whole else "text"
        raise DataError(path, f"column {name!r} is {kind}", f"it must be {must}, or null")
    values: list[Any] = table[name].to_pylist()
    return values


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _numbers(path: Path | str, table: pa.Table, name: str) -> list[Any]:
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


def _of_model(path: Path | str, columns: Columns, model: str | None) -> Columns:
    models = sorted(set(columns["model"]))
    if model is None:
        played = set(zip(columns["model"], columns["directive"], strict=True))
        several = [name for name in models if sum(m == name for m, _ in played) > 1]
        candidates = several or models
        if len(candidates) > 1:
            raise DataError(path, f"holds models {candidates}", "name one of them")
        model = candidates[0]
    if model not in models:
        raise DataError(path, f"holds no model {model!r}", f"name one of {models}")
    keep = [i for i, name in enumerate(columns["model"]) if name == model]
    return {name: [values[i] for i in keep] for name, values in columns.items()}


def chat_of(path: Path | str, row: int, text: str) -> tuple[dict[str, Any], ...]:
    """A row's chat, from its JSON.

    Raises:
        DataError: it is none.
    """
    try:
        chat = json.loads(text)
    except ValueError:
        chat = None
    if not isinstance(chat, list) or not chat or not all(map(_is_message, chat)):
        raise DataError(
            path,
            f"row {row} messages is no chat",
            "give a JSON list of messages with role and content",
        )
    return tuple(chat)


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str | list | None)
    )


def _assembled(path: Path | str, columns: Columns, names: tuple[str, ...]) -> Profile:
    place: dict[str, int] = {}
    requests: list[Request] = []
    first_row: list[int] = []
    texts = columns["messages"]
    for row, request_id in enumerate(columns["request_id"]):
        if request_id in place:
            first = place[request_id]
            for name, values in (("task", columns["task"]), ("prompt", texts)):
                if values[row] != values[first_row[first]]:
                    raise DataError(
                        path,
                        f"row {columns['row'][row]}: {request_id!r} has another {name} than before",
                        "give every request its own request_id",
                    )
        else:
            first_row.append(row)
            place[request_id] = len(requests)
            requests.append(
                Request(
                    request_id,
                    columns["task"][row],
                    chat_of(path, columns["row"][row], texts[row]),
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
            where = f"row {columns['row'][row]}: request {request_id!r} directive {name!r}"
            raise DataError(path, f"{where} twice", "give it once")
        row_at[cell] = row
    if (row_at < 0).any():
        r, d = np.argwhere(row_at < 0)[0]
        raise DataError(
            path,
            f"request {requests[r].request_id!r} lacks directive {names[d]!r}",
            f"every request needs {', '.join(names)}",
        )
    arrays = {name: np.array(columns[name])[row_at] for name in ARRAYS}
    for column, name in enumerate(names):
        check_outcomes(
            f"{path}: energy_joules of {name!r}", *(arrays[c][:, column] for c in COSTS[1:])
        )
    responses = None
    if None not in columns["response"]:
        responses = tuple(tuple(columns["response"][i] for i in line) for line in row_at)
    methods = {method or "unlabelled" for method in columns["energy_method"]}
    counted = {method or "counted" for method in columns["tokens_method"]}
    outcomes = Outcomes(**arrays, energy_method="/".join(sorted(methods)), responses=responses)
    return Profile(
        requests=tuple(requests),
        directives=names,
        model=columns["model"][0],
        outcomes=outcomes,
        tokens_method="/".join(sorted(counted)),
    )
