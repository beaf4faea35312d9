"""Tables keep their figures where the output is no terminal."""

import pytest
from rich.table import Table

from experiments.console import FILE_COLUMNS, table_console


@pytest.fixture
def wide():
    table = Table(*(f"column {i}" for i in range(9)))
    table.add_row(*(f"0.123 [{i}.111, {i}.222]" for i in range(9)))
    return table


def test_a_wide_table_in_a_pipe_is_not_cut_off(wide, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    console = table_console()
    assert console.width == FILE_COLUMNS
    console.print(wide)
    lines = capsys.readouterr().out.splitlines()
    assert all(any(f"{i}.222]" in line for line in lines) for i in range(9))
    assert "…" not in "".join(lines)


def test_columns_sets_another_width(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert table_console().width == 120
