"""Reader of recorded requests: a ledger's export, a profile, or any table of prompts."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from envs.errors import DataError
from envs.outcomes.profile_reader import chat_of
from envs.requests.request import Request

# Task of requests without a task tag.
UNTAGGED = "untagged"
_REMEDY = (
    "give Parquet with a column messages (the chat as JSON) or prompt; optional: task, reference"
)


def read_requests(path: Path) -> list[Request]:
    """Return the distinct chats of a Parquet file, in the order of the file.

    Raises:
        DataError: the file is unreadable, has no rows or no column of chats, or a row holds no
            valid chat; the error names the file and the row.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(path, f"no readable Parquet ({error})", _REMEDY) from error
    if "messages" not in table.column_names and "prompt" not in table.column_names:
        raise DataError(path, "column 'messages' is missing", _REMEDY)
    requests: dict[str, Request] = {}
    for number, row in enumerate(table.to_pylist()):
        text = row.get("messages")
        if text is None and row.get("prompt") is not None:
            text = json.dumps([{"role": "user", "content": row["prompt"]}])
        chat = chat_of(path, number, text or "")
        request = Request("", row.get("task") or UNTAGGED, chat, row.get("reference"))
        identity = request.prompt_hash
        named = Request(identity[:16], request.task, chat, request.reference)
        requests.setdefault(identity, named)
    if not requests:
        raise DataError(path, "holds no rows", "record requests with `--store-prompts`")
    return list(requests.values())
