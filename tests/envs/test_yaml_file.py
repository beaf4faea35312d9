import pytest

from envs.yaml_file import read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("off", "off"),
        ("NO", "NO"),
        ("y", "y"),
        ("2024-01-02T00:00:00", "2024-01-02T00:00:00"),
        ("2024-01-02", "2024-01-02"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("-3", -3),
        ("1e3", 1000.0),
        (".95", 0.95),
        ("true", True),
        ("~", None),
        ("", None),
        ("'true'", "true"),
    ],
)
def test_a_plain_word_is_what_a_person_means_by_it(tmp_path, text, value):
    path = tmp_path / "f.yaml"
    path.write_text(f"key: {text}\n")
    read = read_yaml(path, "give YAML")["key"]
    assert (read, type(read)) == (value, type(value))
