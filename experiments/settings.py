"""The one configuration system: typed settings, file < environment < flags.

A command is a `Settings` subclass whose fields are its flags. `--config FILE` (YAML)
gives defaults, environment variables `SPROUT_<FIELD>` override it, flags override
both. The resolved settings are saved beside every result.
"""

import json
import os
from abc import abstractmethod
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
from envs.yaml_file import read_yaml


class Settings(BaseSettings):
    """Base of all commands: define fields and `cli_cmd`."""

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
        """Flags come as init settings, then the environment, then the file."""
        if isinstance(env_settings, EnvSettingsSource):
            # An aliased flag like --json must not read a variable without our prefix.
            own = {k: v for k, v in env_settings.env_vars.items() if k.startswith("sprout_")}
            env_settings.env_vars = own
        return init_settings, env_settings, InitSettingsSource(settings_cls, cls.from_file)

    @abstractmethod
    def cli_cmd(self) -> None:
        """Do the command's work."""

    def save(self, folder: Path) -> None:
        """Write the resolved settings to `folder`/config.yaml."""
        folder.mkdir(parents=True, exist_ok=True)
        resolved = self.model_dump(mode="json", by_alias=True, exclude={"config"})
        (folder / "config.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False))


def run_command(command: type[Settings], name: str, arguments: list[str]) -> None:
    """Parse `arguments` into `command` and run it.

    Raises:
        ConfigError: a setting is unknown or has a wrong value; names it.
    """
    arguments = _one_value_a_flag(command, [_with_hyphens(a) for a in arguments])
    command.from_file = _file_settings(arguments)
    command.model_config["cli_prog_name"] = f"sprout {name}"
    try:
        settings = command(_cli_parse_args=arguments)  # type: ignore[call-arg]
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]).replace("_", "-")
        given = "" if first["type"] == "missing" else f", not {first.get('input')!r}"
        raise ConfigError(f"--{field}: {first['msg']}{given}") from error
    finally:
        command.from_file = {}
    # Before the long part: a result that cannot be written is lost.
    if (result := getattr(settings, "json_path", None)) is not None:
        if result.is_dir():
            raise ConfigError(f"--json {result} is a folder; name a file")
        result.parent.mkdir(parents=True, exist_ok=True)
    # Outside: what fails in the command's own work is no wrong flag.
    settings.cli_cmd()


def _with_hyphens(argument: str) -> str:
    """`--learning_rate=0.1`, as sweep agents write flags, as `--learning-rate=0.1`."""
    name, equals, value = argument.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if name.startswith("--") else argument


def _one_value_a_flag(command: type[Settings], arguments: list[str]) -> list[str]:
    """`--flag A B` as `--flag A --flag B`, for the flags that take lists."""
    lists = {
        f"--{(field.alias or name).replace('_', '-')}"
        for name, field in command.model_fields.items()
        if get_origin(field.annotation) is list
    }
    written: list[str] = []
    flag = None
    for argument in arguments:
        if argument.startswith("-"):
            flag = argument if argument in lists else None
        elif flag is not None and written[-1] != flag:
            written.append(flag)
        written.append(argument)
    return written


def _file_settings(arguments: list[str]) -> dict[str, Any]:
    given = os.environ.get("SPROUT_CONFIG")
    for index, argument in enumerate(arguments):
        if argument.startswith("--config="):
            given = argument.partition("=")[2]
        elif argument == "--config" and index + 1 < len(arguments):
            given = arguments[index + 1]
    if not given:
        return {}
    content = read_yaml(Path(given), "give --config a YAML mapping of settings")
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"--config {given}: give a mapping of settings")
    # Written as flags are or as fields are.
    return {str(key).replace("-", "_"): value for key, value in (content or {}).items()}


def floors_by_task(
    floor: str, tasks: tuple[str, ...], others: tuple[str, ...] = ()
) -> dict[str, float]:
    """Floors from `--floor`: one ratio for all tasks, or a YAML file of task: ratio.

    Args:
        tasks: that need a floor.
        others: that may have one.

    Raises:
        ConfigError: no ratio in 0..1, a task without a floor, or a floor without a task.
    """
    try:
        given: Any = dict.fromkeys(tasks, float(floor))
    except ValueError:
        given = read_yaml(Path(floor), "give --floor a ratio or a YAML file of TASK: RATIO lines")
    if not isinstance(given, dict):
        raise ConfigError(f"--floor {floor}: give task: ratio lines")
    missing = [task for task in tasks if task not in given]
    if missing:
        raise ConfigError(
            f"--floor {floor}: no floor for {', '.join(missing)}; give a line TASK: RATIO for each"
        )
    allowed = dict.fromkeys((*tasks, *others))
    unknown = [str(task) for task in given if task not in allowed]
    if unknown:
        raise ConfigError(
            f"--floor {floor}: no task {unknown[0]!r}; tasks are {', '.join(allowed)}"
        )
    floors = {task: given[task] for task in tasks}
    for task, value in floors.items():
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ConfigError(f"--floor {floor}: {task} is {value}; give a ratio from 0 to 1")
    return floors


def write_json(path: Path | None, result: Any) -> None:
    """Write a machine-readable result where `--json` asks for it."""
    if path is not None:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
