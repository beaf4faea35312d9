"""Readers of recorded requests: a ledger's export, a profile, or one's own file of chats."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from envs.csv_file import read_csv
from envs.errors import ConfigError, DataError
from envs.outcomes.profile_reader import chat_of
from envs.requests.request import Request

# Task of requests without a task tag.
UNTAGGED = "untagged"
FIELDS = ("messages", "prompt", "reference", "task")
# Other names of the fields, in common files.
_ALIASES = {
    "conversations": "messages",
    "question": "prompt",
    "instruction": "prompt",
    "answer": "reference",
}
# Roles of ShareGPT's conversations.
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "system": "system"}
_REMEDY = (
    "give Parquet, CSV or JSON lines with messages (a chat) or prompt; optional: task, reference; "
    "name other columns with --rename OURS=THEIRS"
)


def read_requests(path: Path, rename: str = "") -> list[Request]:
    """Return the distinct chats of a file, in the order of the file.

    A chat is played up to its last user message. The file is Parquet (`messages` as JSON or as a
    list), CSV, a JSON list, or JSON lines: rows with the fields below, OpenAI's batch input or
    fine-tuning files, or ShareGPT's conversations.

    Args:
        rename: pairs OURS=THEIRS, separated by commas, with OURS one of `FIELDS`.

    Raises:
        ConfigError: `rename` is wrong.
        DataError: the file is unreadable, has no rows or no chats, or a row holds no valid chat;
            the error names the file and the row.
    """
    names = _renamed(rename)
    requests: dict[str, Request] = {}
    columns: dict[str, None] = {}
    for number, row in enumerate(_rows(path)):
        columns |= dict.fromkeys(row)
        fields = _fields(path, number, row, names)
        text = _chat_text(path, number, fields)
        if not text:
            problem = f"row {number} holds no chat; its columns are {', '.join(row)}"
            raise DataError(path, problem, _REMEDY)
        chat = _up_to_question(chat_of(path, number, text))
        if not chat:
            raise DataError(path, f"row {number} has no user message", _REMEDY)
        reference = fields.get("reference")
        if reference is not None and not isinstance(reference, str):
            reference = json.dumps(reference, ensure_ascii=False)
        request = Request("", str(fields.get("task") or UNTAGGED), chat, reference or None)
        identity = request.prompt_hash
        named = Request(identity[:16], request.task, chat, request.reference)
        requests.setdefault(identity, named)
    if not requests:
        raise DataError(path, "holds no rows", _REMEDY)
    if missing := next((theirs for theirs in names if theirs not in columns), None):
        problem = f"column {missing!r} is missing"
        raise DataError(path, problem, f"the columns are {', '.join(columns)}")
    return list(requests.values())


def _fields(
    path: Path, number: int, row: Mapping[str, Any], names: Mapping[str, str]
) -> dict[str, Any]:
    """Return a row by our names: those of --rename first, then our own, then common other ones."""
    renamed = {names[name]: value for name, value in row.items() if name in names}
    own = {name: value for name, value in row.items() if name not in names and name in FIELDS}
    other: dict[str, Any] = {}
    for name, value in row.items():
        if name in names or (ours := _ALIASES.get(name)) is None:
            continue
        if ours in other:
            problem = f"row {number} has two columns for {ours}"
            raise DataError(path, problem, f"name one with --rename {ours}={name}")
        other[ours] = value
    if row.get("instruction") and row.get("input") and "prompt" not in {**own, **renamed}:
        # Alpaca's format: a task and what it is about.
        other["prompt"] = f"{row['instruction']}\n\n{row['input']}"
    rest = {name: value for name, value in row.items() if name not in names}
    return {**rest, **other, **own, **renamed}


def _renamed(rename: str) -> dict[str, str]:
    """Return the field of each of the file's names."""
    names = {}
    for pair in filter(None, rename.split(",")):
        ours, equals, theirs = pair.partition("=")
        if not equals or ours not in FIELDS:
            raise ConfigError(f"--rename {pair}: give OURS=THEIRS, OURS one of {', '.join(FIELDS)}")
        names[theirs] = ours
    return names


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    suffix = path.suffix.lower()
    if suffix == ".csv" or path.name.lower().endswith(".csv.gz"):
        table = read_csv(path, _REMEDY)
        for cells in table.rows:
            yield dict(zip(table.header, cells, strict=True))
    elif suffix in (".jsonl", ".ndjson", ".json"):
        yield from _json_rows(path)
    else:
        try:
            yield from pq.read_table(path).to_pylist()
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(path, f"no readable Parquet ({error})", _REMEDY) from error


def _json_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, f"cannot be read ({error})", _REMEDY) from error
    if text.lstrip().startswith("["):
        texts = [text]
    else:
        # Not by `splitlines`: JSON texts may hold other line separators.
        texts = [line for line in text.split("\n") if line.strip()]
    number = 0
    for line in texts:
        try:
            parsed = json.loads(line)
        except ValueError as error:
            raise DataError(path, f"row {number} is no JSON ({error})", _REMEDY) from error
        for row in parsed if isinstance(parsed, list) else [parsed]:
            if not isinstance(row, dict):
                raise DataError(path, f"row {number} is no JSON object", _REMEDY)
            # OpenAI's batch input has the request inside.
            body = row.get("body")
            yield {**row, **body} if isinstance(body, dict) else row
            number += 1


def _chat_text(path: Path, number: int, fields: Mapping[str, Any]) -> str | None:
    """Return a row's chat as JSON; None if the row has none."""
    messages = fields.get("messages")
    if messages is None and "input" in fields and "model" in fields:
        # A request of the Responses API.
        messages = fields["input"]
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
    if isinstance(messages, list):
        return json.dumps([_message(path, number, item) for item in messages])
    if messages is not None:
        return str(messages)
    prompt = fields.get("prompt")
    if prompt is None or prompt == "":
        return None
    if not isinstance(prompt, str):
        raise DataError(path, f"row {number} prompt is no text", _REMEDY)
    return json.dumps([{"role": "user", "content": prompt}])


def _message(path: Path, number: int, item: Any) -> Any:
    """Return a message in OpenAI's form."""
    if not isinstance(item, dict) or "from" not in item:
        # Parquet fills in the members that only other messages have.
        return (
            {name: value for name, value in item.items() if value is not None}
            if isinstance(item, dict)
            else item
        )
    role = _ROLES.get(item["from"])
    if role is None:
        raise DataError(
            path, f"row {number} has a message from {item['from']!r}", f"give {', '.join(_ROLES)}"
        )
    return {"role": role, "content": item.get("value")}


def _up_to_question(chat: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    """Return a chat up to its last user message: what comes after it was the answer."""
    last = max((i for i, message in enumerate(chat) if message["role"] == "user"), default=-1)
    return chat[: last + 1]
