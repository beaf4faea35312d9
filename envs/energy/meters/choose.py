"""The best meter that a machine has for a server."""

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
# Of a machine's own meters, those that measure.
MEASURING: tuple[Kind, ...] = ("nvml", "amd", "soc", "rapl")


@dataclass(frozen=True)
class MeterChoice:
    """Which meter to use.

    Attributes:
        kind: "auto" takes the first that works of NVML, AMD's, a system on a chip's, RAPL and
            processor time; "remote" reads what `remote` says.
        devices: of NVML; default all that are visible.
        watts_per_core: stated power of a busy core, for processor time.
    """

    kind: Kind = "auto"
    devices: tuple[str, ...] = ()
    remote: RemoteSettings | None = None
    watts_per_core: float = DEFAULT_WATTS_PER_CORE


@dataclass(frozen=True)
class Candidate:
    """A meter that might be used; `make` raises MeterError, saying why it cannot."""

    kind: str
    better: str
    make: Callable[[], Meter]


def candidates(urls: Sequence[str], wanted: MeterChoice) -> Iterator[Candidate]:
    """Meters of servers on this machine, the best first, each with what would make it usable."""
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
        f"a processor with RAPL, leave to read /sys/class/powercap (root, or zeusd), {zeus}",
        lambda: ZeusMeter("rapl"),
    )
    yield Candidate(
        "cpu",
        "a server on this machine",
        lambda: _cpu_time(urls, wanted.watts_per_core),
    )


def choose_meter(*urls: str, wanted: MeterChoice | None = None) -> Meter:
    """The meter that is wanted, or the best there is.

    Args:
        urls: what is metered together: the LLM server and, where it takes part, the hook.

    Raises:
        ConfigError: no such kind of meter, or "remote" without its URL.
        MeterError: none can be used; the server is on another machine, or nothing listens there.
    """
    wanted = wanted or MeterChoice()
    if wanted.kind not in get_args(Kind):
        raise ConfigError(f"meter {wanted.kind!r}: one of {', '.join(get_args(Kind))}")
    if wanted.kind == "remote":
        if wanted.remote is None:
            raise ConfigError("meter remote: give its URL with --meter-url")
        return RemoteMeter(wanted.remote)
    if wanted.kind in ("auto", "cpu"):
        # Who names a meter knows that it is the server's.
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
    """Refuse servers whose energy cannot be read here.

    Raises:
        MeterError: one is on another machine.
    """
    for url in urls:
        if not is_local(url):
            raise MeterError(
                f"{url} is not on this machine, so its energy cannot be read here; run where the "
                "server runs, read it by --meter remote, or state it (--joules-per-token)"
            )


def is_local(url: str) -> bool:
    """Whether a URL is on this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _cpu_time(urls: Sequence[str], watts_per_core: float) -> Meter:
    # Here: who only says which meter to use needs no psutil.
    from envs.energy.meters.cpu_time import CpuTimeMeter, listening_process

    found = []
    for url in urls:
        pid = listening_process(urlsplit(url).port or 80)
        if pid is None:
            raise MeterError(f"nothing listens at {url}; start the server first")
        found.append(pid)
    # Without a server's address: one that runs in this very process.
    return CpuTimeMeter(*(found or [os.getpid()]), watts_per_core=watts_per_core)
