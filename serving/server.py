"""Runs the gateway on uvicorn."""

import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn

from agents.bundle import load_bundle
from envs.carbon import IntensityTrace, iso
from envs.carbon_reader import read_trace
from envs.clock import WallClock
from envs.errors import ConfigError
from serving.decision import Decider
from serving.gateway import Gateway


def trace_clock(
    trace: IntensityTrace, start: str | None, speed: float = 1.0
) -> Callable[[], float]:
    """Unix seconds now, by the wall clock or by a clock that an experiment started.

    Args:
        start: ISO 8601 UTC at which the experiment's clock starts now; None is real time.
        speed: experiment seconds per second.

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

    if not trace.start <= now() < trace.end:
        raise ConfigError(
            f"{trace.source} covers {iso(trace.start)} to {iso(trace.end)}, not {iso(now())}; "
            "give a current trace, or --clock-start within it"
        )
    return now


def check_upstream(upstream: str) -> None:
    """Refuse what is no base URL of a server.

    Raises:
        ConfigError: no http(s) URL with a host and a possible port, or one with a
            password, which belongs into the clients' own Authorization header.
    """
    try:
        parts = urlsplit(upstream)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        fits = fits and not (parts.username or parts.query or parts.fragment)
    except ValueError:
        fits = False
    if not fits:
        raise ConfigError("--upstream: give a URL like http://127.0.0.1:8000, without a password")


def serve(
    upstream: str,
    policy: Path,
    *,
    host: str,
    port: int,
    intensity: Path | None = None,
    zone: str | None = None,
    clock_start: str | None = None,
    clock_speed: float = 1.0,
    seed: int | None = None,
) -> None:
    """Serve until interrupted; in-flight requests finish first.

    Raises:
        SproutError: before listening: wrong URL, bundle, trace, or a port in use.
    """
    check_upstream(upstream)
    bundle = load_bundle(policy)
    trace = read_trace(intensity, zone)
    decider = Decider(bundle, trace, trace_clock(trace, clock_start, clock_speed), seed)
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port"
        ) from error
    config = uvicorn.Config(
        Gateway(upstream, decider),
        log_level="warning",
        lifespan="on",
        # Upstream's own are relayed.
        server_header=False,
        date_header=False,
    )
    print(
        f"sprout serves http://{host}:{listener.getsockname()[1]} -> {upstream} "
        f"with policy {bundle.version}",
        flush=True,
    )
    uvicorn.Server(config).run(sockets=[listener])
