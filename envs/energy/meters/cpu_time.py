"""Processor time of a server's processes x stated watts: an estimate, and labelled so."""

import psutil

from envs.errors import MeterError


class CpuTimeMeter:
    """Processor seconds of processes and their children, times `watts_per_core`.

    Counts only while the processor works for the server: idle power is left out.
    """

    method = "estimated"
    # Cores differ by as much, and memory and idle power are not in it.
    error_ratio = 0.5
    # The operating system's clock tick.
    tick_seconds = 0.01

    def __init__(self, *pids: int, watts_per_core: float) -> None:
        try:
            self._processes = [psutil.Process(pid) for pid in pids]
        except psutil.Error as error:
            raise MeterError(f"processor time: {error}") from error
        self._watts = watts_per_core
        self._most = 0.0
        self.devices = tuple(f"process {pid}" for pid in pids)
        self.source = f"processor time x {watts_per_core:g} W per core"

    def read_joules(self) -> float:
        """J since the processes started, to the operating system's 10 ms."""
        try:
            tree = [(p, *p.children(recursive=True)) for p in self._processes]
            times = [process.cpu_times() for processes in tree for process in processes]
        except psutil.Error as error:
            raise MeterError(f"processor time: the server's process is gone ({error})") from error
        # A child that ended takes its time out of the sum; a counter must not fall.
        self._most = max(self._most, float(sum(t.user + t.system for t in times)))
        return self._watts * self._most


def listening_process(port: int) -> int | None:
    """The process that listens on a local TCP port, or None."""
    for process in psutil.process_iter():
        try:
            connections = process.net_connections(kind="tcp")
        except psutil.Error:
            continue
        if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections):
            return int(process.pid)
    return None
