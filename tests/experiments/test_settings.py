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
        resolved_settings.append((self.size, self.name))


resolved_settings = []


def run(*arguments):
    resolved_settings.clear()
    run_command(Echo, "echo", list(arguments))
    return resolved_settings[-1]


def test_flags_override_the_environment_which_overrides_the_file(tmp_path, monkeypatch):
    path = tmp_path / "s.yaml"
    path.write_text("size: 2\nname: file\n")
    assert run() == (1, "default")
    assert run("--config", str(path)) == (2, "file")
    monkeypatch.setenv("SPROUT_SIZE", "3")
    assert run("--config", str(path)) == (3, "file")
    assert run("--config", str(path), "--size", "4") == (4, "file")


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--size", "x"], "--size"),
        (["--size", "-1"], "--size"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
def test_a_wrong_setting_is_named_in_the_error(arguments, fragment):
    with pytest.raises(SproutError, match=fragment):
        run(*arguments)


def test_a_validation_error_inside_a_command_is_not_reported_as_a_wrong_flag():
    class Failing(Settings):
        """A command that fails while it runs."""

        def cli_cmd(self):
            Echo(size="no number")

    with pytest.raises(ValidationError):
        run_command(Failing, "works", [])


def test_an_unknown_setting_in_a_file_is_named_in_the_error(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("sise: 2\n")
    with pytest.raises(ConfigError, match="sise"):
        run("--config", str(path))


def test_saved_settings_are_read_back_with_the_config_flag(tmp_path):
    Echo(size=7).save(tmp_path)
    assert run("--config", str(tmp_path / "config.yaml")) == (7, "default")


def test_floors_are_one_ratio_for_all_tasks_or_a_file_that_names_every_task(tmp_path):
    assert floors_by_task("0.9", ("a", "b")) == {"a": 0.9, "b": 0.9}
    path = tmp_path / "floors.yaml"
    path.write_text("a: 0.8\n")
    assert floors_by_task(str(path), ("a",)) == {"a": 0.8}
    with pytest.raises(ConfigError, match="no floor for b;"):
        floors_by_task(str(path), ("a", "b"))
    with pytest.raises(ConfigError, match="ratio from 0 to 1"):
        floors_by_task("95", ("a",))


def test_an_error_is_one_line_that_names_what_is_wrong(tmp_path, capsys):
    def error_of(*arguments):
        assert main(list(arguments)) == 2
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        return text

    assert "no command 'grow'" in error_of("grow")
    assert "no model folder at /nowhere" in error_of("llama", "--model", "/nowhere")
    assert "neither a folder nor" in error_of("llama", "--model", "nowhere")
    serve = ("serve", "--upstream", "http://127.0.0.1:9", "--policy", str(tmp_path))
    # Ports that another program may use are not asked for.
    ports = ("--port", "0", "--admin-port", "0", "--state", str(tmp_path / "state"))
    assert "give a current trace" in error_of(*serve, *ports)
    missing = str(tmp_path / "p.parquet")
    assert missing in error_of("train", "--outcomes", missing, "--out", str(tmp_path))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--holdout", "0.1"], "there is no flag --holdout; did you mean --hold-out?"),
        (["--holdout=0.1"], "there is no flag --holdout; did you mean --hold-out?"),
        (["--frobnicate"], "there is no flag --frobnicate; see --help"),
    ],
)
def test_a_misspelt_flag_is_one_line_with_a_similar_one(capsys, flags, message):
    serve = ["serve", "--upstream", "http://127.0.0.1:9", "--policy", "b"]
    assert main([*serve, *flags]) == 2
    assert capsys.readouterr().err == f"sprout: {message}\n"
