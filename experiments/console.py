"""The console that the commands print their tables on."""

import os

from rich.console import Console

# Columns where the output is no terminal, so that no figure of a table is cut off.
FILE_COLUMNS = 200


def table_console(*, markup: bool = True) -> Console:
    """Return a console as wide as the terminal, or `FILE_COLUMNS` if the output is a file or pipe.

    The environment variable COLUMNS sets another width.

    Args:
        markup: whether text in square brackets is read as a style.
    """
    console = Console(markup=markup)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = FILE_COLUMNS
    return console
