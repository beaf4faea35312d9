"""Puts a hook together from its settings, and keeps it up to date from a thread."""

import atexit
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict

from envs.carbon.csv_traces import read_trace
from envs.carbon.intensity import IntensityTrace, iso
from envs.carbon.live.choose import make_source
from envs.carbon.live.outlook import open_outlook, read_outlook
from envs.clock import WallClock
from envs.errors import ConfigError
from serving.hook.conversation import ConversationMemory
from serving.hook.core import Hook
from serving.hook.grid import Grid
from serving.hook.policies import Policies
from serving.settings.control import LocalControl
from serving.settings.hook import HookConfig
from serving.telemetry.log import log_internal_error
from serving.telemetry.metrics import Metrics
from serving.telemetry.traces import Traces

EVERY_SECONDS = 0.5


class Environment(HookConfig, BaseSettings):
    """The hook's settings from SPROUT_* variables, for shapes without a command line."""

    model_config = SettingsConfigDict(env_prefix="SPROUT_", env_ignore_empty=True)


class Upkeep:
    """Calls functions twice a second from a thread of its own."""

    def __init__(self, steps: Sequence[Callable[[], None]]) -> None:
        self._steps = steps
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sprout-upkeep", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End, after the round that is under way."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            for step in self._steps:
                try:
                    step()
                except Exception as error:
                    log_internal_error("upkeep failed; it is tried again", error)


def make_hook(config: HookConfig, memory: Path | None = None) -> Hook:
    """A hook; nothing keeps it up yet.

    Args:
        memory: file of the conversations that this machine's workers share.

    Raises:
        ConfigError, DataError: settings or the intensity trace are wrong.
    """
    grid = make_grid(config)
    control = LocalControl(config.state, config.initial_control())
    traces = Traces(config.otlp) if config.otlp is not None else None
    policies = Policies(config.folders, grid.view.kind)
    hook = Hook(config, policies, grid, control, ConversationMemory(memory), Metrics(), traces)
    hook.publish_metrics()
    return hook


def make_grid(config: HookConfig) -> Grid:
    """The grid, from a trace or from the file that a live source's feed keeps.

    Raises:
        ConfigError, DataError: the trace or the source's settings are wrong.
    """
    if (settings := config.live) is not None:
        source = make_source(settings)
        outlook = open_outlook(source, config.outlook, config.intensity_mean or 0.0)
        return Grid(outlook, time.time, config.outlook, read_outlook, config.intensity_max_age)
    path = Path(config.intensity) if config.intensity is not None else None
    trace = read_trace(path, config.zone)
    # A file of one's own may be behind: its readings then have an age.
    clock = trace_clock(trace, config.clock_start, config.clock_speed, strict=path is None)
    return Grid(
        trace,
        clock,
        path,
        load=lambda changed: read_trace(changed, trace.zone),
        max_age_seconds=config.intensity_max_age,
    )


def embedded(config: HookConfig | None = None) -> Hook:
    """A hook inside another server's process, kept up by a thread.

    Args:
        config: None reads SPROUT_* variables.

    Raises:
        ConfigError: the settings are wrong.
    """
    if config is None:
        try:
            config = Environment()  # type: ignore[call-arg]
        except ValueError as error:
            raise ConfigError(f"SPROUT_* variables: {error}") from error
    # Loads the database's libraries, which the gateway's workers never need.
    from serving.ledger.keeper import Keeper

    config.make_state()
    hook = make_hook(config)
    keeper = Keeper(config, LocalControl(config.state, hook.control.now))
    upkeep = Upkeep([keeper.step, hook.refresh])

    def close() -> None:
        upkeep.close()
        hook.close()
        keeper.close()

    atexit.register(close)
    return hook


def trace_clock(
    trace: IntensityTrace, start: str | None, speed: float = 1.0, *, strict: bool = True
) -> Callable[[], float]:
    """Unix seconds now, by the wall clock or by a clock that an experiment started.

    Args:
        start: ISO 8601 UTC at which the experiment's clock starts now; None is real time.
        speed: experiment seconds per second.
        strict: refuse a trace that ends before the present.

    Raises:
        ConfigError: `start` is no time, or the trace does not cover the present.
    """
    if start is None:
        if speed != 1.0:
            raise ConfigError("--clock-speed needs --clock-start")
        now: Callable[[], float] = time.time
    else:
        try:
            moment = datetime.fromisoformat(start)
            begun = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except ValueError as error:
            raise ConfigError(f"--clock-start {start!r}: give ISO 8601, UTC") from error
        clock = WallClock(speed)

        def now() -> float:
            return begun + clock.elapsed_seconds()

    late = now() >= trace.end and (strict or start is not None)
    if late or now() < trace.start:
        raise ConfigError(
            f"{trace.source} covers {iso(trace.start)} to {iso(trace.end)}, not {iso(now())}; "
            "give a current trace, or --clock-start within it"
        )
    return now
