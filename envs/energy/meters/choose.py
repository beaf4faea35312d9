"""Choice of the best energy meter that a machine has for a server."""

import ipaddress
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import urlsplit

from envs.energy.meter import Meter
from envs.energy.meters.nvml import NvmlMeter
from envs.energy.meters.remote import RemoteMeter, RemoteSettings
from envs.energy.meters.zeus import ZeusMeter
from envs.errors import ConfigError, MeterError

Kind = Literal["auto", "nvml", "amd", "soc", "rapl", "cpu", "remote"]
# A server processor's package power divided by its cores, e.g. AMD EPYC 9654: 360 W / 96.
DEFAULT_WATTS_PER_CORE = 3.75
# The meters on the local machine that measure energy; "cpu" estimates it.
MEASURING: tuple[Kind, ...] = ("nvml", "amd", "soc", "rapl")


@dataclass(frozen=True)
class MeterChoice:
    """Settings that select a meter.

    Attributes:
        kind: "auto" takes the first usable meter of NVML, AMD, system on a chip, RAPL and
            processor time; "remote" reads the meter in `remote`.
        devices: indices or UUIDs of NVML's GPUs; by default all visible GPUs.
        remote: settings of the remote meter; None unless `kind` is "remote".
        watts_per_core: stated power of a busy core for the processor-time meter, W.
    """

    kind: Kind = "auto"
    devices: tuple[str, ...] = ()
    remote: RemoteSettings | None = None
    watts_per_core: float = DEFAULT_WATTS_PER_CORE


@dataclass(frozen=True)
class Candidate:
    """A meter that may be usable.

    Attributes:
        kind: value of `MeterChoice.kind` that selects the meter.
        better: requirements of the meter, for people.
        make: creates the meter; raises MeterError with the reason if that is impossible.
    """

    kind: str
    better: str
    make: Callable[[], Meter]


def candidates(urls: Sequence[str], wanted: MeterChoice) -> Iterator[Candidate]:
    """Yield the meters for servers on this machine, the best first."""
    yield Candidate(
        "nvml",
        "an NVIDIA GPU with its driver, and pip install 'sprout-rl[gpu]'",
        lambda: NvmlMeter(wanted.devices or None),
    )
    zeus = "and pip install 'sprout-rl[zeus]'"
    yield Candidate("amd", f"an AMD GPU with ROCm 6.2 or later, {zeus}", lambda: ZeusMeter("amd"))
    yield Candidate("soc", f"Apple silicon or a Jetson, {zeus}", lambda: ZeusMeter("soc"))
    yield Candidate(
        "rapl",
        f"a processor with RAPL, permission to read /sys/class/powercap (root, or zeusd), {zeus}",
        lambda: ZeusMeter("rapl"),
    )
    yield Candidate(
        "cpu",
        "a server on this machine",
        lambda: _cpu_time_meter(urls, wanted.watts_per_core),
    )


def choose_meter(*urls: str, wanted: MeterChoice | None = None) -> Meter:
    """Return the requested meter, or the best one available.

    Args:
        urls: servers to meter together: the LLM server and, if it takes part, the hook.
        wanted: settings of the meter; None means "auto".

    Raises:
        ConfigError: the kind of meter is unknown, or it is "remote" without a URL.
        MeterError: no meter is usable, the server is on another machine, or nothing listens at
            its URL.
    """
    wanted = wanted or MeterChoice()
    if wanted.kind not in get_args(Kind):
        raise ConfigError(
            f"--meter {wanted.kind}: no such meter; give one of {', '.join(get_args(Kind))}"
        )
    if wanted.kind == "remote":
        if wanted.remote is None:
            raise ConfigError("--meter remote: give the meter's URL with --meter-url")
        return RemoteMeter(wanted.remote)
    if wanted.kind in ("auto", "cpu"):
        # A user who names another meter knows that the meter belongs to the server.
        check_local(urls)
    problem: MeterError | None = None
    for candidate in candidates(urls, wanted):
        if wanted.kind not in ("auto", candidate.kind):
            continue
        try:
            return candidate.make()
        except MeterError as error:
            problem = error
    assert problem is not None
    raise problem


def check_local(urls: Sequence[str]) -> None:
    """Refuse servers whose energy cannot be read on this machine.

    Raises:
        MeterError: a server is on another machine.
    """
    for url in urls:
        if not is_local(url):
            raise MeterError(
                f"{url} is not on this machine, so its energy cannot be read here; run this "
                "command on the server's machine, read a remote meter (--meter remote), or state "
                "the energy (--joules-per-token)"
            )


def is_local(url: str) -> bool:
    """Return whether a URL points to this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _cpu_time_meter(urls: Sequence[str], watts_per_core: float) -> Meter:
    # Imported late: commands that only list the meters do not need psutil.
    from envs.energy.meters.cpu_time import CpuTimeMeter, listening_process

    pids = []
    for url in urls:
        pid = listening_process(urlsplit(url).port or 80)
        if pid is None:
            raise MeterError(f"nothing listens at {url}; start the server first")
        pids.append(pid)
    # Without any URL, the server runs in this process.
    return CpuTimeMeter(*(pids or [os.getpid()]), watts_per_core=watts_per_core)
