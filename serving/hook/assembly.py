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
from envs.errors import ConfigError, SproutError
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
    policies = Policies(config.folders, grid.known.kind)
    hook = Hook(config, policies, grid, control, ConversationMemory(memory), Metrics(), traces)
    show(hook)
    return hook


def make_grid(config: HookConfig) -> Grid:
    """The grid, from a trace or from the file that a live source's feed keeps.

    Raises:
        ConfigError, DataError: the trace or the source's settings are wrong.
    """
    if (asked := config.live) is not None:
        source = make_source(asked)
        known = open_outlook(source, config.outlook, config.intensity_mean or 0.0)
        return Grid(known, time.time, config.outlook, read_outlook, config.intensity_max_age)
    path = Path(config.intensity) if config.intensity is not None else None
    trace = read_trace(path, config.zone)
    # A file of one's own may be behind: its readings then have an age.
    clock = trace_clock(trace, config.clock_start, config.clock_speed, strict=path is None)
    return Grid(
        *(trace, clock, path),
        lambda changed: read_trace(changed, trace.zone),
        config.intensity_max_age,
    )


def refresh(hook: Hook, *, reload: bool = False) -> None:
    """One look at everything that may have changed.

    Args:
        reload: load the bundles whether they seem to have changed or not.
    """
    reloads = hook.control.now.reloads
    hook.control.refresh()
    problems = dict(hook.policies.problems)
    if hook.policies.refresh(force=reload or hook.control.now.reloads != reloads):
        hook.metrics.reloads.labels("loaded").inc()
    for folder, problem in hook.policies.problems.items():
        if problems.get(folder) != problem:
            hook.metrics.reloads.labels("refused").inc()
            log_internal_error(f"bundle refused, what was loaded stays: {problem}")
    try:
        hook.grid.refresh()
    except (SproutError, OSError) as error:
        log_internal_error(f"intensity not read, the last known stays: {error}")
    hook.say()
    show(hook)


def show(hook: Hook) -> None:
    """Set the metrics that no request sets."""
    reading = hook.grid.see().reading
    hook.metrics.intensity.set(reading.g_per_kwh)
    hook.metrics.intensity_age.set(reading.age_seconds)
    hook.metrics.grid(reading)
    hook.metrics.mode(hook.control.now.mode)
    hook.metrics.flush(hook.in_flight)
    if hook.traces is not None:
        hook.traces.flush()
    loaded = hook.policies.loaded
    hook.metrics.policies([(d.bundle.version, d.bundle.model) for d in loaded])


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
    upkeep = Upkeep([keeper.step, lambda: refresh(hook)])

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
