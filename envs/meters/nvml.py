"""NVIDIA GPUs through NVML's total-energy counter (Volta and later)."""

from typing import Any

from envs.errors import MeterError


class NvmlMeter:
    """Sum of the total-energy counters of all visible GPUs; mJ inside NVML, J here.

    The counter advances every 20 to 100 ms: read windows, not short requests.
    """

    method = "measured"

    def __init__(self) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise MeterError("NVML: package nvidia-ml-py is not installed (extra [gpu])") from error
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
            self._devices = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
            self.read_joules()
        except pynvml.NVMLError as error:
            raise MeterError(f"NVML: {error}") from error
        if not self._devices:
            raise MeterError("NVML: no GPU")
        self.source = f"NVML total energy of {count} GPU(s)"

    def read_joules(self) -> float:
        """J used by all GPUs since the driver was loaded."""
        try:
            readings = [self._nvml.nvmlDeviceGetTotalEnergyConsumption(d) for d in self._devices]
        except self._nvml.NVMLError as error:
            raise MeterError(f"NVML: {error}") from error
        return float(sum(readings)) / 1e3
