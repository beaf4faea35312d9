"""The best meter that a machine has for a server."""

import ipaddress
from urllib.parse import urlsplit

from envs.energy import Meter
from envs.errors import MeterError
from envs.meters.cpu_time import DEFAULT_WATTS_PER_CORE, CpuTimeMeter, listening_process
from envs.meters.nvml import NvmlMeter


def choose_meter(*urls: str, watts_per_core: float = DEFAULT_WATTS_PER_CORE) -> Meter:
    """NVML where there is a GPU, else the local servers' processor time.

    Args:
        urls: what is metered together: the LLM server and, where it takes part, the
            hook; all on this machine.
        watts_per_core: stated power of a busy core, for the estimate.

    Raises:
        MeterError: the server is on another machine, or nothing listens there.
    """
    for url in urls:
        if not _is_loopback(urlsplit(url).hostname or ""):
            raise MeterError(
                f"{url} is not on this machine, so its energy cannot be read here; "
                "run where the server runs, or state its energy (sprout profile --joules-per-token)"
            )
    try:
        return NvmlMeter()
    except MeterError:
        return CpuTimeMeter(*(_listener(url) for url in urls), watts_per_core=watts_per_core)


def _listener(url: str) -> int:
    pid = listening_process(urlsplit(url).port or 80)
    if pid is None:
        raise MeterError(f"nothing listens at {url}; start the server first")
    return pid


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
