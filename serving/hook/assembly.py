"""Builds a hook from its settings and refreshes it from a background thread."""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from envs.carbon.constant import ConstantIntensity, stated_intensity
from envs.carbon.csv_traces import read_trace
from envs.carbon.intensity import IntensityTrace, Kind, iso
from envs.carbon.live.choose import make_source
from envs.carbon.live.outlook import open_outlook, read_outlook
from envs.clock import WallClock
from envs.errors import ConfigError, SproutError
from serving.apis.fixed_formats import known_fields
from serving.hook.conversation import ConversationMemory
from serving.hook.core import Hook
from serving.hook.grid import Grid, UnknownGrid
from serving.hook.policies import Policies
from serving.quality.sampling.sampler import Send
from serving.settings.control import LocalControl
from serving.settings.hook import HookConfig
from serving.settings.rules import check_tasks
from serving.telemetry.log import log_internal_error
from serving.telemetry.metrics import Metrics
from serving.telemetry.traces import Traces

UPKEEP_SECONDS = 0.5


class Upkeep:
    """A background thread that calls functions every `EVERY_SECONDS`.

    Args:
        steps: the functions, called in this order. An exception is logged and does not stop
            the thread.
    """

    def __init__(self, steps: Sequence[Callable[[], None]]) -> None:
        self._steps = steps
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sprout-upkeep", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and wait until its current round has ended."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(UPKEEP_SECONDS):
            for step in self._steps:
                try:
                    step()
                except Exception as error:
                    log_internal_error("upkeep failed; the next round tries again", error)


def make_hook(
    config: HookConfig,
    runtime: Path | None = None,
    *,
    first: bool = True,
    send: Send | None = None,
) -> Hook:
    """Build a hook. The caller must call `Hook.refresh` regularly.

    Args:
        runtime: folder that the workers of this replica share, for their conversation memory;
            None keeps the memory in this process.
        first: whether this is a first start, which refuses a wrong carbon intensity. A restart
            must not end a service for it: no request is steered then.
        send: takes the requests whose answers are to be judged; None judges none.

    Raises:
        ConfigError, DataError: the settings or the intensity trace are wrong.
    """
    # Reads a file: now, and not during the first request.
    known_fields()
    config.check_quality()
    grid = open_grid(config, first=first)
    control = LocalControl(config.state, config.initial_control(), config.kill_switch(runtime))
    memory = ConversationMemory(None if runtime is None else runtime / "conversations")
    traces = Traces(config.otlp) if config.otlp is not None else None
    policies = Policies(config.folders, grid.kind, config.directive_place, config.explore)
    hook = Hook(config, policies, grid, control, memory, Metrics(), traces)
    hook.sampler.send = send if config.judges else None
    if first:
        tasks = [task for decider in policies.loaded for task in decider.bundle.featurizer.tasks]
        check_tasks(list(hook.floors.at_start), frozenset(tasks), f"--floor {config.floor}")
    hook.publish_metrics()
    return hook


def open_grid(config: HookConfig, *, first: bool) -> Grid | UnknownGrid:
    """Return the grid; at a restart, one that is unknown if its intensity cannot be read.

    Args:
        first: see `make_hook`.

    Raises:
        SproutError: at a first start, the intensity is wrong.
    """
    try:
        grid = make_grid(config)
    except SproutError as error:
        if first:
            raise
        return UnknownGrid(str(error), lambda: make_grid(config))
    if first and grid.problem is not None:
        raise ConfigError(grid.problem)
    return grid


def make_grid(config: HookConfig) -> Grid:
    """Build the grid from a trace, or from the file that the keeper fills from a live source.

    Raises:
        ConfigError, DataError: the trace or the source's settings are wrong.
    """
    if (settings := config.live) is not None:
        source = make_source(settings)
        outlook = open_outlook(source, config.outlook, config.intensity_mean or 0.0)
        return Grid(outlook, time.time, config.outlook, read_outlook, config.intensity_max_age)
    path = Path(config.intensity) if config.intensity is not None else None
    if path is not None and (stated := stated_intensity(path)) is not None:
        kind = Kind(config.intensity_signal, config.intensity_scope)
        now = experiment_clock(config.clock_start, config.clock_speed)
        return Grid(ConstantIntensity(stated, kind), now)
    trace = read_trace(path, config.zone)
    # An operator's own file may end before the present: its last reading then has an age.
    clock = trace_clock(trace, config.clock_start, config.clock_speed, strict=path is None)
    return Grid(
        trace,
        clock,
        path,
        load=lambda changed: read_trace(changed, trace.zone),
        max_age_seconds=config.intensity_max_age,
    )


def experiment_clock(start: str | None, speed: float = 1.0) -> Callable[[], float]:
    """Return a function that gives the time of decisions, Unix seconds.

    Args:
        start: ISO 8601 time, UTC unless it has an offset, at which an experiment's clock starts
            now; None uses real time.
        speed: experiment seconds per real second.

    Raises:
        ConfigError: `start` is not a time, or `speed` is given without `start`.
    """
    if start is None:
        if speed != 1.0:
            raise ConfigError("--clock-speed needs --clock-start")
        return time.time
    try:
        moment = datetime.fromisoformat(start)
        start_time = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except ValueError as error:
        raise ConfigError(
            f"--clock-start {start!r}: not an ISO 8601 time; give e.g. 2024-01-02T00:00 (UTC)"
        ) from error
    clock = WallClock(speed)
    return lambda: start_time + clock.elapsed_seconds()


def trace_clock(
    trace: IntensityTrace, start: str | None, speed: float = 1.0, *, strict: bool = True
) -> Callable[[], float]:
    """Return a function that gives the time in the trace, Unix seconds.

    Args:
        start, speed: see `experiment_clock`.
        strict: also refuse a trace that ends before the present in real time.

    Raises:
        ConfigError: as for `experiment_clock`, or the trace does not cover the clock's present.
    """
    now = experiment_clock(start, speed)
    ended = now() >= trace.end and (strict or start is not None)
    if ended or now() < trace.start:
        raise ConfigError(
            f"{trace.source} covers {iso(trace.start)} to {iso(trace.end)}, not {iso(now())}; "
            "give a current trace, or set --clock-start to a time within this one"
        )
    return now
