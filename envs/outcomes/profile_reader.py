"""A strict reader of profiles: errors name the file, row and field, and nothing is guessed."""

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
from envs.plausible import LEAST_WATTS, check_outcomes
from envs.requests.request import Request

TEXTS = ("request_id", "task", "model", "directive")
Columns = dict[str, list[Any]]
REMEDY = "give a profile, or make one with `sprout import`"
OPTIONAL = (
    *("reference", "difficulty", "response", "energy_method", "tokens_method"),
    *("answer_model", "fingerprint"),
)


def read_profile(
    path: Path, model: str | None = None, directives: Sequence[str] | None = None
) -> Profile:
    """Read and check a profile.

    Args:
        path: the Parquet file.
        model: name of the model whose rows to read. It may be None unless the file holds
            several models with rows of more than one directive.
        directives: names in action order; None for the order of their first rows, after `none`.

    Raises:
        DataError: the file is unreadable; a column is missing or has a wrong type; a text is
            empty; a cost is NaN or negative; a quality is outside 0..1; a row occurs twice; or a
            request lacks a directive or has two tasks or prompts. The message names the file,
            row and field.
        UnitError: the energies must be in another unit than joules.
    """
    if not path.exists():
        raise DataError(path, "no such file", REMEDY)
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(path, f"not a readable Parquet file ({error})", REMEDY) from error
    return check_table(path, table, model, directives)


def check_table(
    path: Path | str,
    table: pa.Table,
    model: str | None = None,
    directives: Sequence[str] | None = None,
) -> Profile:
    """Check a table that was read from `path` and return its profile, as `read_profile` does."""
    if table.num_rows == 0:
        raise DataError(path, "holds no rows", "record some with `sprout profile`")
    # A column that only exports have.
    if "policy_version" in table.column_names:
        raise DataError(
            path,
            "is an export of a ledger, with one directive a request",
            "profile it first: sprout profile --requests FILE plays each request under all of them",
        )
    columns = _rows_of_model(path, _columns(path, table), model)
    names = list(dict.fromkeys(columns["directive"]))
    if directives is None:
        if "none" not in names:
            raise DataError(
                path,
                f"no row of directive 'none', only of {names}",
                "record every request without a directive too",
            )
        names.sort(key=lambda name: name != "none")
    else:
        unknown = set(names) - set(directives)
        if unknown:
            raise DataError(
                path,
                f"unknown directives {sorted(unknown)}",
                f"expected {list(directives)}; give your catalogue with --directives",
            )
        names = list(directives)
    return _assemble(path, columns, tuple(names))


def _columns(path: Path | str, table: pa.Table) -> Columns:
    available = set(table.column_names)
    prompt = "messages" if "messages" in available else "prompt"
    required = (*TEXTS, prompt, *COSTS)
    missing = [repr(name) for name in required if name not in available]
    if missing:
        verb = "column {} is" if len(missing) == 1 else "columns {} are"
        raise DataError(
            path,
            f"{verb.format(', '.join(missing))} missing",
            f"required are {', '.join(required)}; optional are {_others(required)}",
        )
    # Keep the row numbers of the file for errors: other models' rows are dropped below.
    columns: Columns = {"row": list(range(table.num_rows))}
    for name in (*TEXTS, prompt):
        column_type = table.schema.field(name).type
        if not _is_text(column_type):
            raise DataError(path, f"column {name!r} is {column_type}", "it must be text")
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
    # Default: without batching, a request uses the device alone for its whole latency.
    device = "device_seconds" if "device_seconds" in available else "latency_seconds"
    columns["device_seconds"] = _numbers(path, table, device)
    for name in OPTIONAL:
        columns[name] = _optional(path, table, name)
    return columns


def _others(required: Sequence[str]) -> str:
    return ", ".join(name for name in SCHEMA.names if name not in required)


def _optional(path: Path | str, table: pa.Table, name: str) -> list[Any]:
    if name not in table.column_names:
        return [None] * table.num_rows
    column_type = table.schema.field(name).type
    is_integer = name == "difficulty"
    if is_integer and pa.types.is_floating(column_type):
        # Other tools write whole numbers with gaps as floats.
        numbers = [None if v is None or v != v else v for v in table[name].to_pylist()]
        if all(value is None or value == int(value) for value in numbers):
            return [None if value is None else int(value) for value in numbers]
    fits = pa.types.is_integer(column_type) if is_integer else _is_text(column_type)
    if not (fits or pa.types.is_null(column_type)):
        expected = "a whole number" if is_integer else "text"
        raise DataError(
            path, f"column {name!r} is {column_type}", f"it must be {expected}, or null"
        )
    values: list[Any] = table[name].to_pylist()
    return values


def _is_text(column_type: pa.DataType) -> bool:
    return bool(pa.types.is_string(column_type) or pa.types.is_large_string(column_type))


def _numbers(path: Path | str, table: pa.Table, name: str) -> list[Any]:
    if name not in table.column_names:
        return [float("nan")] * table.num_rows
    column_type = table.schema.field(name).type
    checks = (pa.types.is_integer, pa.types.is_floating, pa.types.is_null)
    if not any(check(column_type) for check in checks):
        raise DataError(path, f"column {name!r} is {column_type}", "it must be a number")
    values = np.array(
        [np.nan if v is None else v for v in table[name].to_pylist()], dtype=np.float64
    )
    with np.errstate(invalid="ignore"):
        if name not in QUALITIES:
            wrong, expected = ~(values >= 0) | np.isinf(values), "0 or more"
        else:
            wrong, expected = (values < 0) | (values > 1), "0 to 1, or null"
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(path, f"row {row} {name} is {values[row]}", f"it must be {expected}")
    numbers: list[Any] = values.tolist()
    return numbers


def _rows_of_model(path: Path | str, columns: Columns, model: str | None) -> Columns:
    models = sorted(set(columns["model"]))
    if model is None:
        pairs = set(zip(columns["model"], columns["directive"], strict=True))
        with_several = [name for name in models if sum(m == name for m, _ in pairs) > 1]
        candidates = with_several or models
        if len(candidates) > 1:
            raise DataError(path, f"holds models {candidates}", "name one of them")
        model = candidates[0]
    if model not in models:
        raise DataError(path, f"holds no model {model!r}", f"name one of {models}")
    rows = [i for i, name in enumerate(columns["model"]) if name == model]
    return {name: [values[i] for i in rows] for name, values in columns.items()}


def chat_of(path: Path | str, row: int, text: str) -> tuple[dict[str, Any], ...]:
    """Return a row's chat from its JSON text.

    Raises:
        DataError: the text is not a chat.
    """
    try:
        chat = json.loads(text)
    except ValueError:
        chat = None
    if not isinstance(chat, list) or not chat or not all(map(_is_message, chat)):
        raise DataError(
            path,
            f"row {row} messages is not a chat",
            "give a JSON list of messages with role and content",
        )
    return tuple(chat)


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str | list | None)
    )


def _assemble(path: Path | str, columns: Columns, names: tuple[str, ...]) -> Profile:
    index_of: dict[str, int] = {}
    requests: list[Request] = []
    first_rows: list[int] = []
    texts = columns["messages"]
    for row, request_id in enumerate(columns["request_id"]):
        if request_id in index_of:
            first_row = first_rows[index_of[request_id]]
            for name, values in (("task", columns["task"]), ("prompt", texts)):
                if values[row] != values[first_row]:
                    raise DataError(
                        path,
                        f"row {columns['row'][row]}: {request_id!r} has another {name} than above",
                        "give every request its own request_id",
                    )
        else:
            first_rows.append(row)
            index_of[request_id] = len(requests)
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
        cell = index_of[request_id], column_of[name]
        if row_at[cell] >= 0:
            pair = f"request {request_id!r} directive {name!r}"
            raise DataError(path, f"row {columns['row'][row]}: {pair} twice", "give it once")
        row_at[cell] = row
    if (row_at < 0).any():
        r, d = np.argwhere(row_at < 0)[0]
        raise DataError(
            path,
            f"request {requests[r].request_id!r} lacks directive {names[d]!r}",
            f"every request needs {', '.join(names)}",
        )
    arrays = {name: np.array(columns[name])[row_at] for name in ARRAYS}
    energy_methods = {method or "unlabelled" for method in columns["energy_method"]}
    shared = energy_methods <= {"attributed", "estimated"}
    for column, name in enumerate(names):
        tokens, joules, seconds = (arrays[cost][:, column] for cost in COSTS[1:])
        least_watts = 0.0 if shared else LEAST_WATTS
        check_outcomes(f"{path}: energy_joules of {name!r}", tokens, joules, seconds, least_watts)
    responses = None
    if None not in columns["response"]:
        responses = tuple(tuple(columns["response"][i] for i in cells) for cells in row_at)
    tokens_methods = {method or "counted" for method in columns["tokens_method"]}
    outcomes = Outcomes(
        **arrays, energy_method="/".join(sorted(energy_methods)), responses=responses
    )
    return Profile(
        requests=tuple(requests),
        directives=names,
        model=columns["model"][0],
        outcomes=outcomes,
        tokens_method="/".join(sorted(tokens_methods)),
        answer_models=tuple(sorted(set(columns["answer_model"]) - {None})),
        fingerprints=tuple(sorted(set(columns["fingerprint"]) - {None})),
    )
