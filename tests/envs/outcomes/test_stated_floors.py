"""Floors as people state them."""

import pytest

from envs.errors import ConfigError, DataError
from envs.outcomes.stated_floors import floors_file, read_floors


@pytest.mark.parametrize(
    ("text", "floors"),
    [
        ("0.95", {"*": 0.95}),
        ("1", {"*": 1.0}),
        (".9", {"*": 0.9}),
        ("faq=.97", {"faq": 0.97}),
        ("faq=0.97, legal=1,*=0.9", {"faq": 0.97, "legal": 1.0, "*": 0.9}),
    ],
)
def test_a_ratio_and_pairs_are_read_without_a_file(text, floors):
    assert floors_file(text) is None
    assert read_floors(text) == floors


def test_a_file_is_read(tmp_path):
    path = tmp_path / "floors.yaml"
    path.write_text('faq: 0.97\n"*": 0.9\n')
    assert floors_file(str(path)) == path
    assert read_floors(str(path)) == {"faq": 0.97, "*": 0.9}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("faq=high", "--floor faq=high: faq is high; give a ratio from 0 to 1"),
        ("faq=", "faq is"),
        ("1.01", "give a ratio from 0 to 1"),
        ("nan", "nan"),
        ("faq=nan", "faq is nan"),
    ],
)
def test_what_is_no_ratio_is_refused(text, problem):
    with pytest.raises((ConfigError, DataError), match=problem):
        read_floors(text)


@pytest.mark.parametrize("content", ["[0.9]", "faq: true", "faq: [0.9]", ""])
def test_a_file_without_ratios_is_refused(tmp_path, content):
    path = tmp_path / "floors.yaml"
    path.write_text(content)
    with pytest.raises((ConfigError, DataError), match=r"floors\.yaml"):
        read_floors(str(path))
