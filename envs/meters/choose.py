"""The best meter that a machine has for a server."""

import ipaddress
from urllib.parse import urlsplit

from envs.energy import Meter
from envs.errors import MeterError
from envs.meters.cpu_time import DEFAULT_WATTS_PER_CORE, CpuTimeMeter, listening_process
from envs.meters.nvml import NvmlMeter


def choose_meter(upstream: str, watts_per_core: float = DEFAULT_WATTS_PER_CORE) -> Meter:
    """NVML where there is a GPU, else the local server's processor time.

    Args:
        upstream: the server's URL, which must be on this machine.
        watts_per_core: stated power of a busy core, for the estimate.

    Raises:
        MeterError: the server is on another machine, or nothing listens there.
    """
    parts = urlsplit(upstream)
    if not _is_loopback(parts.hostname or ""):
        raise MeterError(
            f"{upstream} is not on this machine, so its energy cannot be read here; "
            "run where the server runs, or state its energy (sprout profile --joules-per-token)"
        )
    try:
        return NvmlMeter()
    except MeterError:
        pid = listening_process(parts.port or 80)
    if pid is None:
        raise MeterError(f"nothing listens at {upstream}; start the server first")
    return CpuTimeMeter(pid, watts_per_core)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
