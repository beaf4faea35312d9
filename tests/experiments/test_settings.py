import pytest
from pydantic import Field, ValidationError

from envs.errors import ConfigError, SproutError
from experiments.cli import main
from experiments.settings import Settings, floors_by_task, run_command


class Echo(Settings):
    """A command for tests."""

    size: int = Field(1, ge=0)
    name: str = "default"

    def cli_cmd(self):
        seen.append((self.size, self.name))


seen = []


def run(*arguments):
    seen.clear()
    run_command(Echo, "echo", list(arguments))
    return seen[-1]


def test_flags_beat_the_environment_and_it_beats_the_file(tmp_path, monkeypatch):
    path = tmp_path / "s.yaml"
    path.write_text("size: 2\nname: file\n")
    assert run() == (1, "default")
    assert run("--config", str(path)) == (2, "file")
    monkeypatch.setenv("SPROUT_SIZE", "3")
    assert run("--config", str(path)) == (3, "file")
    assert run("--config", str(path), "--size", "4") == (4, "file")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "x"], "--size"),
        (["--size", "-1"], "--size"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
def test_a_wrong_setting_is_named(arguments, said):
    with pytest.raises(SproutError, match=said):
        run(*arguments)


def test_an_error_of_the_work_itself_is_not_blamed_on_a_flag():
    class Works(Settings):
        """Fails while it works."""

        def cli_cmd(self):
            Echo(size="no number")

    with pytest.raises(ValidationError):
        run_command(Works, "works", [])


def test_an_unknown_setting_in_a_file_is_named(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("sise: 2\n")
    with pytest.raises(ConfigError, match="sise"):
        run("--config", str(path))


def test_the_resolved_settings_are_saved(tmp_path):
    Echo(size=7).save(tmp_path)
    assert run("--config", str(tmp_path / "config.yaml")) == (7, "default")


def test_floors_by_task(tmp_path):
    assert floors_by_task("0.9", ("a", "b")) == {"a": 0.9, "b": 0.9}
    path = tmp_path / "floors.yaml"
    path.write_text("a: 0.8\n")
    assert floors_by_task(str(path), ("a",)) == {"a": 0.8}
    with pytest.raises(ConfigError, match="no floor for b;"):
        floors_by_task(str(path), ("a", "b"))
    with pytest.raises(ConfigError, match="ratio from 0 to 1"):
        floors_by_task("95", ("a",))


def test_errors_are_one_line_that_names_the_thing(tmp_path, capsys):
    def said(*arguments):
        assert main(list(arguments)) == 2
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        return text

    assert "no command 'grow'" in said("grow")
    assert "no model folder at /nowhere" in said("llama", "--model", "/nowhere")
    assert "neither a folder nor" in said("llama", "--model", "nowhere")
    upstream = ("--upstream", "http://127.0.0.1:9")
    assert "give a current trace" in said("serve", *upstream, "--policy", str(tmp_path))
    missing = str(tmp_path / "p.parquet")
    assert missing in said("train", "--outcomes", missing, "--out", str(tmp_path))
