"""Rows for off-policy evaluation: what the policy saw, what it did, how likely that was, and why.

A conversation has one draw. All its turns carry the same propensity, so propensities of requests of
one conversation must not be multiplied: use one row a conversation (its `opening`), with the sums
over its turns as the outcome.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NEEDED = (
    *("decision_id", "conversation", "opening", "time", "model", "task", "tenant", "mode"),
    *("features", "directive", "applied", "probability", "hold_out", "hold_out_ratio"),
    *("policy_version", "lottery", "reason", "intensity_g_per_kwh", "prompt_tokens"),
    *("completion_tokens", "energy_joules", "energy_method", "grams", "seconds", "outcome"),
)
_KEPT = (
    *("decision_id", "conversation", "opening", "time", "model", "task", "tenant"),
    *("policy_version", "hold_out", "intensity_g_per_kwh", "prompt_tokens"),
    *("completion_tokens", "energy_joules", "energy_method", "grams", "seconds", "outcome"),
)
_STEERING = ("on", "canary")
SCHEMA = pa.schema(
    [
        pa.field("decision_id", pa.string(), nullable=False),
        pa.field("conversation", pa.string(), nullable=False),
        pa.field("opening", pa.bool_()),
        pa.field("time", pa.float64(), nullable=False),
        pa.field("model", pa.string()),
        pa.field("task", pa.string()),
        pa.field("tenant", pa.string()),
        pa.field("policy_version", pa.string(), nullable=False),
        pa.field("context", pa.list_(pa.float32()), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("propensity", pa.float64(), nullable=False),
        pa.field("hold_out", pa.bool_(), nullable=False),
        pa.field("intensity_g_per_kwh", pa.float64()),
        pa.field("prompt_tokens", pa.int64()),
        pa.field("completion_tokens", pa.int64()),
        pa.field("energy_joules", pa.float64()),
        pa.field("energy_method", pa.string()),
        pa.field("grams", pa.float64()),
        pa.field("seconds", pa.float64()),
        pa.field("outcome", pa.string()),
    ],
    metadata={
        "context": "the policy's observation; the names are in the bundle's manifest, `features`",
        "action": "the directive that the answer was generated under",
        "propensity": "probability of the action before the conversation's draw, with the "
        "hold-out: h + (1 - h) p for none, (1 - h) p for another, with hold-out ratio h and the "
        "probability p of the policy, --explore included, at the conversation's opening. One for "
        "each conversation: do not multiply those of its turns. Identical openings of one day have "
        "the same draw and the same `conversation`, but each the propensity of its own hour",
        "outcome": "how the answer ended; verdicts on quality are not in the ledger",
    },
)


def ope_rows(records: Iterable[Sequence[Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield a row for each request that the lottery decided and that was steered accordingly.

    Args:
        records: ledger records with the columns `NEEDED`.
    """
    for values in records:
        row = dict(zip(NEEDED, values, strict=True))
        drawn = row["lottery"] and row["mode"] in _STEERING and row["features"] is not None
        # A decision that failed afterwards has no known propensity.
        if not drawn or row["reason"] not in ("policy", "sticky", "hold_out"):
            continue
        ratio, chance = row["hold_out_ratio"], row["probability"]
        propensity = (1 - ratio) * chance + (ratio if row["directive"] == "none" else 0.0)
        yield {name: row[name] for name in _KEPT} | {
            "context": np.frombuffer(base64.b64decode(row["features"]), np.float32),
            "action": row["directive"],
            "propensity": propensity,
        }


def write_ope(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows as Parquet; the schema's metadata explains the columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), path)
