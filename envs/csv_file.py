"""Reading of CSV files that users write: every cell belongs to a column, and numbers are exact."""

import csv
import gzip
import zlib
from pathlib import Path
from typing import IO, NamedTuple, cast

from envs.errors import DataError

# Prompts are longer than the library's default limit.
_LONGEST_CELL = 1 << 28


class CsvTable(NamedTuple):
    """The cells of a CSV file.

    Attributes:
        header: the column names.
        rows: the rows below, each with one cell for each column.
    """

    header: list[str]
    rows: list[list[str]]


def read_csv(path: Path, remedy: str) -> CsvTable:
    """Return the cells of a CSV file in UTF-8, or of a gzip file of it; empty lines are left out.

    Args:
        remedy: what the user should give instead; it ends the error message.

    Raises:
        DataError: the file cannot be read, has no header, names a column twice, or a row has more
            or fewer cells than the header; the message names the row.
    """
    csv.field_size_limit(_LONGEST_CELL)
    try:
        with _opened(path) as stream:
            lines = [line for line in csv.reader(stream) if line]
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise DataError(path, f"cannot be read ({error})", remedy) from error
    if not lines:
        raise DataError(path, "is empty", remedy)
    header, *rows = lines
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise DataError(path, f"column {twice!r} is given twice", "give every column once")
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            cells = ",".join(row)
            raise DataError(
                path,
                f"row {number} has {len(row)} fields, the header {len(header)} ({cells[:80]!r})",
                "write numbers without thousands separators and with a decimal point, and put "
                "texts that hold a comma into quotes",
            )
    return CsvTable(header, rows)


def read_number(text: str) -> float:
    """Return the number that a cell holds.

    Raises:
        ValueError: the text is no number, or uses Python's underscores (1_000).
    """
    if "_" in text:
        raise ValueError(f"{text!r} is no number")
    return float(text)


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return cast(IO[str], gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")
