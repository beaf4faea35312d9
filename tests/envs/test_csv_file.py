import gzip

import pytest

from envs.csv_file import read_csv, read_number
from envs.errors import DataError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,1,050\n", "row 2 has 3 fields, the header 2"),
        ("a,b\n1,2\n300,5,\n", "row 3 has 3 fields"),
        ("a,b\n1\n", "row 2 has 1 fields"),
        ("a,a\n1,2\n", "column 'a' is given twice"),
        ("", "is empty"),
        ("a\n\xff\n", "cannot be read"),
    ],
)
def test_a_row_that_does_not_fit_the_header_is_named(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        read_csv(path, "give a CSV")


def test_cells_are_kept_whole(tmp_path):
    long = "x" * 200_000
    path = tmp_path / "t.csv.gz"
    path.write_bytes(
        gzip.compress(f'a,b\r\n"1,050","nul \0 here"\r\n\r\n{long},"a\nb"\r\n'.encode())
    )
    table = read_csv(path, "give a CSV")
    assert table.header == ["a", "b"]
    assert table.rows == [["1,050", "nul \0 here"], [long, "a\nb"]]


def test_a_number_has_no_underscores():
    assert read_number(" 1.5e3 ") == 1500
    for text in ("1_000", "1,000", "", "1 000"):
        with pytest.raises(ValueError, match=r"number|convert"):
            read_number(text)
