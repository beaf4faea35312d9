"""`sprout import csv`: import a CSV table of outcomes."""

from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from pydantic import Field
from pydantic_settings import CliPositionalArg

from envs.csv_file import read_csv, read_number
from envs.errors import ConfigError, DataError
from envs.outcomes.profile import SCHEMA, write_profile
from envs.outcomes.profile_reader import check_table
from experiments.settings import Settings

JOULES = {"J": 1.0, "Wh": 3600.0, "kWh": 3.6e6}
SECONDS = {"s": 1.0, "ms": 1e-3}
PROMPT = "prompt"
INT32 = 2**31


class ImportCsv(Settings):
    """Write a profile from a CSV with one row per request, model and directive.

    Required columns: request_id, task, model, directive (`none` for requests without a
    directive), prompt (or messages, a JSON chat), prompt_tokens, completion_tokens,
    energy_joules, latency_seconds. Evaluation needs at least one of correct and preference
    (0 to 1).
    """

    path: CliPositionalArg[Path] = Field(description="CSV file")
    out: Path = Field(description="profile to write (Parquet)")
    rename: str = Field(
        "", description="OURS=THEIRS,...: names of columns that the CSV names differently"
    )
    energy_unit: Literal["J", "Wh", "kWh"] = Field("J", description="unit of energy_joules")
    latency_unit: Literal["s", "ms"] = Field("s", description="unit of the columns *_seconds")
    energy_method: Literal["measured", "attributed", "estimated"] | None = Field(
        None, description="how the energy was determined, if the CSV has no energy_method column"
    )

    def cli_cmd(self) -> None:
        """Read and check the table, and write the profile."""
        table = self._table()
        source = f"{self.path} (row 0 is the first below the header)"
        models: list[str | None] = [None]
        if table.num_rows and "model" in table.column_names:
            models = list(dict.fromkeys(table["model"].to_pylist()))
        profiles = [check_table(source, table, model) for model in models]
        rows = table.to_pylist()
        if PROMPT in table.column_names:
            # The profile stores each prompt as the chat that the reader made of it.
            chats = {r.request_id: r.messages_json for p in profiles for r in p.requests}
            for row in rows:
                row["messages"] = chats[row["request_id"]]
        write_profile(self.out, rows)
        for profile in profiles:
            print(
                f"{profile.model}: {len(profile.requests)} requests x "
                f"{len(profile.directives)} directives in {self.out}"
            )

    def _table(self) -> pa.Table:
        # Read as text; numbers are converted per column, so errors name row and field.
        header, rows = read_csv(self.path, "give a CSV")
        frame = pd.DataFrame(rows, columns=header, dtype=str)
        frame = frame.rename(columns=self._names(list(frame.columns)))
        if self.energy_method is not None and "energy_method" not in frame.columns:
            frame["energy_method"] = self.energy_method
        columns: dict[str, Any] = {}
        for name in frame.columns:
            if name == PROMPT:
                columns[name] = pa.array(frame[name].tolist(), pa.string())
            elif name in SCHEMA.names:
                columns[name] = self._column(name, frame[name])
        return pa.table(columns)

    def _names(self, columns: list[str]) -> dict[str, str]:
        """Parse --rename: the CSV's column name -> the profile's column name."""
        names: dict[str, str] = {}
        for pair in filter(None, self.rename.split(",")):
            ours, equals, theirs = pair.partition("=")
            if not equals or ours not in (*SCHEMA.names, PROMPT):
                raise ConfigError(
                    f"--rename {pair}: give OURS=THEIRS, with OURS one of {PROMPT!r} and "
                    f"{SCHEMA.names}"
                )
            if theirs not in columns:
                raise DataError(
                    self.path, f"column {theirs!r} is missing", f"columns are {columns}"
                )
            if theirs in names or ours in names.values() or ours in columns:
                raise ConfigError(
                    f"--rename {pair}: each column can be renamed only once, and {ours!r} must be "
                    "a new name"
                )
            names[theirs] = ours
        return names

    def _column(self, name: str, texts: "pd.Series[str]") -> Any:
        """Convert a column to its type and unit in the profile; an empty text becomes null."""
        kind = SCHEMA.field(name).type
        if pa.types.is_string(kind):
            return pa.array([text or None for text in texts], kind)
        scale = 1.0
        if name == "energy_joules":
            scale = JOULES[self.energy_unit]
        elif name.endswith("_seconds"):
            scale = SECONDS[self.latency_unit]
        values: list[float | None] = []
        for row, text in enumerate(texts):
            try:
                value = read_number(text) * scale if text else None
            except ValueError as error:
                raise DataError(
                    self.path, f"row {row} {name} is {text!r}", "give a number"
                ) from error
            if value is not None and pa.types.is_integer(kind):
                if not abs(value) < INT32:
                    raise DataError(
                        self.path, f"row {row} {name} is {text!r}", "give a count below 2**31"
                    )
                if value != int(value):
                    raise DataError(
                        self.path, f"row {row} {name} is {text!r}", "give a whole number"
                    )
                value = int(value)
            values.append(value)
        return pa.array(values, kind)
