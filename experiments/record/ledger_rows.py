"""Conversion of ledger records to profile rows (`envs.outcomes.profile`) with propensities."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from envs.errors import DataError
from envs.outcomes.profile import SCHEMA
from envs.requests.request import Request
from experiments.record.recorded_requests import UNTAGGED

# Columns of the ledger that `profile_rows` expects, in this order.
NEEDED = (
    *("decision_id", "task", "model", "directive", "applied", "prompt", "response"),
    *("prompt_tokens", "completion_tokens", "tokens_method", "energy_joules", "energy_method"),
    *("seconds", "probability", "policy_version", "lottery", "hold_out", "hold_out_ratio"),
    *("intensity_g_per_kwh", "time", "outcome", "status"),
)
# Columns that off-policy learning needs in addition to those of a profile.
BESIDE = pa.schema(
    [
        pa.field("probability", pa.float64()),
        pa.field("policy_version", pa.string()),
        pa.field("lottery", pa.bool_()),
        pa.field("hold_out", pa.bool_()),
        pa.field("hold_out_ratio", pa.float64()),
        pa.field("intensity_g_per_kwh", pa.float64()),
        pa.field("time", pa.float64()),
    ]
)


def profile_rows(records: Iterable[Sequence[Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield a profile row for each completed request with known prompt, tokens and energy.

    Args:
        records: ledger records with the columns `NEEDED`.
    """
    for values in records:
        row = dict(zip(NEEDED, values, strict=True))
        if row["outcome"] != "completed" or row["status"] != 200 or row["prompt"] is None:
            continue
        if row["completion_tokens"] is None or row["energy_joules"] is None:
            continue
        yield {name: row[name] for name in BESIDE.names} | {
            "request_id": row["decision_id"],
            "task": row["task"] or UNTAGGED,
            "model": row["model"] or "",
            "directive": row["directive"] if row["applied"] else "none",
            "messages": Request("", "", tuple(json.loads(row["prompt"]))).messages_json,
            "response": row["response"],
            "prompt_tokens": row["prompt_tokens"] or 0,
            "completion_tokens": row["completion_tokens"],
            "tokens_method": row["tokens_method"],
            "energy_joules": row["energy_joules"],
            "energy_method": row["energy_method"],
            "latency_seconds": row["seconds"],
        }


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows as Parquet with the columns of a profile and `BESIDE`.

    Raises:
        DataError: a row does not fit the profile's columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        table = pa.Table.from_pylist(list(rows), schema=pa.schema([*SCHEMA, *BESIDE]))
    except pa.ArrowInvalid as error:
        raise DataError(
            path,
            f"rows do not fit the profile's columns ({error})",
            "check the ledger's records",
        ) from error
    pq.write_table(table, path)
