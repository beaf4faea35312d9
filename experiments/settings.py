"""Settings of all commands: typed fields, read from a file, the environment and flags.

A command is a `Settings` subclass whose fields are its flags. `--config FILE` (YAML) gives
defaults, environment variables `SPROUT_<FIELD>` override the file, and flags override both. The
resolved settings are saved beside every result.
"""

import io
import json
import os
from abc import abstractmethod
from contextlib import redirect_stderr
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, get_origin

import yaml
from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from envs.errors import ConfigError
from envs.outcomes.stated_floors import ANY_TASK, read_floors
from envs.yaml_file import read_yaml


class Settings(BaseSettings):
    """Base of all commands: a subclass defines fields and `cli_cmd`.

    Attributes:
        from_file: settings of the `--config` file while the command line is parsed.
    """

    model_config = SettingsConfigDict(
        env_prefix="SPROUT_",
        env_ignore_empty=True,
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
        extra="forbid",
    )
    from_file: ClassVar[dict[str, Any]] = {}

    config: Path | None = Field(None, description="YAML file with defaults for these flags")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources by priority: flags, which come as init settings, environment, file."""
        if isinstance(env_settings, EnvSettingsSource):
            # A flag with an alias, like --json, would read a variable without the prefix.
            prefixed = {k: v for k, v in env_settings.env_vars.items() if k.startswith("sprout_")}
            env_settings.env_vars = prefixed
        return init_settings, env_settings, InitSettingsSource(settings_cls, cls.from_file)

    @abstractmethod
    def cli_cmd(self) -> None:
        """Run the command."""

    def save(self, folder: Path) -> None:
        """Write the resolved settings to `folder`/config.yaml."""
        folder.mkdir(parents=True, exist_ok=True)
        resolved = self.model_dump(mode="json", by_alias=True, exclude={"config"})
        (folder / "config.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False))


def run_command(command: type[Settings], name: str, arguments: list[str]) -> None:
    """Parse `arguments` into `command` and run it.

    Raises:
        ConfigError: a setting is unknown or has a wrong value; the message names the setting.
    """
    arguments = _repeat_list_flags(command, [_with_hyphens(a) for a in arguments])
    command.from_file = _file_settings(arguments)
    command.model_config["cli_prog_name"] = f"sprout {name}"
    usage = io.StringIO()
    try:
        with redirect_stderr(usage):
            settings = command(_cli_parse_args=arguments)  # type: ignore[call-arg]
    except SystemExit as error:
        if not error.code:
            raise
        raise ConfigError(_argument_error(command, usage.getvalue())) from None
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"]).replace("_", "-")
        value = "" if problem["type"] == "missing" else f", not {problem.get('input')!r}"
        raise ConfigError(f"--{field}: {problem['msg']}{value}") from error
    finally:
        command.from_file = {}
    # Checked before the command runs: a result that cannot be written would be lost.
    if (json_path := getattr(settings, "json_path", None)) is not None:
        if json_path.is_dir():
            raise ConfigError(f"--json {json_path}: this is a folder; give a file")
        json_path.parent.mkdir(parents=True, exist_ok=True)
    # Outside the `try`: a failure in the command's own work is not a wrong flag.
    settings.cli_cmd()


def _argument_error(command: type[Settings], text: str) -> str:
    """Return the parser's error in one line, with a similar flag instead of the usage."""
    problem = text.strip().splitlines()[-1].partition("error: ")[2] or text.strip()
    flags = [f"--{(f.alias or n).replace('_', '-')}" for n, f in command.model_fields.items()]
    wrong = next((word for word in problem.split() if word.startswith("--")), None)
    similar = get_close_matches(wrong or "", flags, n=1)
    if "unrecognized" not in problem or wrong is None:
        return f"{problem}; see --help"
    hint = f"did you mean {similar[0]}?" if similar else "see --help"
    return f"there is no flag {wrong.partition('=')[0]}; {hint}"


def _with_hyphens(argument: str) -> str:
    """Rewrite `--learning_rate=0.1`, as sweep agents write flags, to `--learning-rate=0.1`."""
    name, equals, value = argument.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if name.startswith("--") else argument


def _repeat_list_flags(command: type[Settings], arguments: list[str]) -> list[str]:
    """Rewrite `--flag A B` to `--flag A --flag B` for the flags that take lists."""
    list_flags = {
        f"--{(field.alias or name).replace('_', '-')}"
        for name, field in command.model_fields.items()
        if get_origin(field.annotation) is list
    }
    rewritten: list[str] = []
    flag = None
    for argument in arguments:
        if argument.startswith("-"):
            flag = argument if argument in list_flags else None
        elif flag is not None and rewritten[-1] != flag:
            rewritten.append(flag)
        rewritten.append(argument)
    return rewritten


def _file_settings(arguments: list[str]) -> dict[str, Any]:
    file = os.environ.get("SPROUT_CONFIG")
    for index, argument in enumerate(arguments):
        if argument.startswith("--config="):
            file = argument.partition("=")[2]
        elif argument == "--config" and index + 1 < len(arguments):
            file = arguments[index + 1]
    if not file:
        return {}
    content = read_yaml(Path(file), "give --config a YAML mapping of settings")
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"--config {file}: give a YAML mapping of settings")
    # Keys may be spelled as flags or as fields.
    return {str(key).replace("-", "_"): value for key, value in (content or {}).items()}


def floors_by_task(
    floor: str, tasks: tuple[str, ...], others: tuple[str, ...] = ()
) -> dict[str, float]:
    """Return the quality floors by task.

    Args:
        floor: value of `--floor`, see `envs.outcomes.stated_floors`.
        tasks: tasks that need a floor.
        others: tasks that may have a floor.

    Raises:
        ConfigError: a ratio is not in 0..1, a task has no floor, or a floor names no known task.
    """
    stated = read_floors(floor)
    default = stated.pop(ANY_TASK, None)
    missing = [task for task in tasks if task not in stated]
    if missing and default is None:
        raise ConfigError(
            f"--floor {floor}: no floor for {', '.join(missing)}; give a line TASK: RATIO for each"
        )
    allowed = dict.fromkeys((*tasks, *others))
    unknown = [task for task in stated if task not in allowed]
    if unknown:
        raise ConfigError(
            f"--floor {floor}: no task {unknown[0]!r}; the tasks are {', '.join(allowed)}"
        )
    return {task: float(stated.get(task, default)) for task in tasks}  # type: ignore[arg-type]


def write_json(path: Path | None, result: Any) -> None:
    """Write a result as JSON to the file of `--json`; do nothing if `path` is None."""
    if path is not None:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
