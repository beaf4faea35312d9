"""The hook inside another server's process: its keeper and its watch run in threads beside it."""

import atexit
from contextlib import suppress

from pydantic_settings import BaseSettings, SettingsConfigDict

from envs.errors import ConfigError, LedgerError
from serving.hook.assembly import Upkeep, make_hook
from serving.hook.core import Hook
from serving.ledger.keeper import Keeper
from serving.quality.sampling.sample import Sample
from serving.quality.watch import QualityWatch
from serving.settings.control import LocalControl
from serving.settings.hook import HookConfig
from serving.watching import make_watch


class EnvironmentConfig(HookConfig, BaseSettings):
    """The hook's settings from SPROUT_* variables, for use without a command line."""

    model_config = SettingsConfigDict(env_prefix="SPROUT_", env_ignore_empty=True)


def make_embedded_hook(config: HookConfig | None = None) -> Hook:
    """Build a hook inside another server's process, with a background thread that refreshes it.

    Args:
        config: the settings; None reads SPROUT_* variables.

    Raises:
        ConfigError: the settings are wrong.
    """
    if config is None:
        try:
            config = EnvironmentConfig()  # type: ignore[call-arg]
        except ValueError as error:
            raise ConfigError(f"SPROUT_* variables: {error}") from error
    config.create_state_folder()
    keeper = Keeper(
        config, LocalControl(config.state, config.initial_control(), config.kill_switch())
    )
    keeper.step()
    watch: QualityWatch | None = None

    def send(samples: list[Sample]) -> int:
        for sample in samples:
            if watch is not None:
                watch.take(sample)
        return len(samples)

    hook = make_hook(config, first=keeper.settings.first_start, send=send)
    if config.judges:
        watch = make_watch(config, keeper, hook.policies, hook.grid)
    with suppress(LedgerError):
        keeper.settings.started()
    steps = [keeper.step, *([] if watch is None else [watch.step]), hook.refresh]
    upkeep = Upkeep(steps)
    # Apart from the other one, which may wait for the database.
    kill_upkeep = Upkeep([keeper.settings.watch_kill_switch, hook.control.refresh])

    def close() -> None:
        """Stop the threads and close the files."""
        upkeep.close()
        kill_upkeep.close()
        hook.close()
        if watch is not None:
            watch.close()
        keeper.close()

    atexit.register(close)
    return hook
