"""Requests that were recorded: of a ledger's export, a profile, or any table of prompts."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from envs.errors import DataError
from envs.outcomes.profile_reader import chat_of
from envs.requests.request import Request

# Of requests without a tag.
UNTAGGED = "untagged"
_REMEDY = "give Parquet with messages (JSON of the chat) or prompt; and task, reference"


def read_requests(path: Path) -> list[Request]:
    """The different chats of a Parquet file, in its order.

    Raises:
        DataError: naming file and row: unreadable, no column of chats, a chat that is none.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(path, f"no readable Parquet ({error})", _REMEDY) from error
    if "messages" not in table.column_names and "prompt" not in table.column_names:
        raise DataError(path, "column 'messages' is missing", _REMEDY)
    found: dict[str, Request] = {}
    for number, row in enumerate(table.to_pylist()):
        text = row.get("messages")
        if text is None and row.get("prompt") is not None:
            text = json.dumps([{"role": "user", "content": row["prompt"]}])
        chat = chat_of(path, number, text or "")
        request = Request("", row.get("task") or UNTAGGED, chat, row.get("reference"))
        identity = request.prompt_hash
        named = Request(identity[:16], request.task, chat, request.reference)
        found.setdefault(identity, named)
    if not found:
        raise DataError(path, "holds no rows", "record some with `--store-prompts`")
    return list(found.values())
