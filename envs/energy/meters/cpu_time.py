"""Energy estimate from a server's processor time and a stated power per core."""

import psutil

from envs.errors import MeterError


class CpuTimeMeter:
    """Processor seconds of processes and their children, times `watts_per_core`.

    The counter rises only while the processor works for the server, so it leaves out idle power.

    Args:
        pids: processes of the server.
        watts_per_core: stated power of a busy core, W.

    Raises:
        MeterError: a process does not exist, or cannot be read.
    """

    method = "estimated"
    # The power of cores differs by this much, and memory and idle power are left out.
    error_ratio = 0.5
    # Length of the operating system's clock tick.
    tick_seconds = 0.01

    def __init__(self, *pids: int, watts_per_core: float) -> None:
        try:
            self._processes = [psutil.Process(pid) for pid in pids]
        except psutil.Error as error:
            raise MeterError(f"processor time: {error}") from error
        self._watts = watts_per_core
        self._highest_seconds = 0.0
        self.devices = tuple(f"process {pid}" for pid in pids)
        self.source = f"processor time x {watts_per_core:g} W per core"

    def read_joules(self) -> float:
        """Return the joules since the processes started; the resolution is 10 ms of work."""
        try:
            trees = [(p, *p.children(recursive=True)) for p in self._processes]
            times = [process.cpu_times() for processes in trees for process in processes]
        except psutil.Error as error:
            raise MeterError(f"processor time: the server's process is gone ({error})") from error
        # The time of a child that ended leaves the sum, but a counter must not fall.
        self._highest_seconds = max(
            self._highest_seconds, float(sum(t.user + t.system for t in times))
        )
        return self._watts * self._highest_seconds


def listening_process(port: int) -> int | None:
    """Return the id of the first process listening on a TCP port that we may inspect, or None."""
    for process in psutil.process_iter():
        try:
            connections = process.net_connections(kind="tcp")
        except psutil.Error:
            continue
        if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections):
            return int(process.pid)
    return None
