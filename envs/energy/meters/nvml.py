"""Energy of NVIDIA GPUs through NVML."""

import os
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from envs.energy.meters.power import PowerIntegral
from envs.errors import MeterError

# Error on A100s and H100s against external meters, for the counter as for power (Yang, Adamek &
# Armour, SC24, https://arxiv.org/abs/2312.02741).
ERROR_RATIO = 0.05
# The counter advances every 20 to 100 ms.
COUNTER_TICK_SECONDS = 0.1
POWER_SECONDS = 0.05


class NvmlMeter:
    """Summed energy of GPUs: their total-energy counters, or their power integrated over time.

    Volta and later GPUs have the counter. NVML reports no energy for a MIG instance, so a GPU with
    instances counts as a whole, and `source` says so. A container sees only the GPUs assigned to
    it.

    Args:
        devices: NVML's indices (as nvidia-smi shows them; CUDA's are the same with
            CUDA_DEVICE_ORDER=PCI_BUS_ID) or UUIDs. None means those of CUDA_VISIBLE_DEVICES, or
            all GPUs if that is unset.

    Raises:
        MeterError: the package, the driver or a GPU is missing.
    """

    method = "measured"
    error_ratio = ERROR_RATIO

    def __init__(self, devices: Sequence[str] | None = None) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise MeterError("NVML: package nvidia-ml-py is not installed (extra [gpu])") from error
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            handles = self._handles(_visible_devices() if devices is None else list(devices))
            self.devices = tuple(self._name(handle) for handle in handles)
            partitioned = sum(self._has_mig(handle) for handle in handles)
            counters = [handle for handle in handles if self._has_counter(handle)]
            self._counters = counters
            others = [handle for handle in handles if handle not in counters]
            read_watts = (lambda: self._watts(others)) if others else None
            self._integral = PowerIntegral(read_watts, POWER_SECONDS) if read_watts else None
            self.tick_seconds = COUNTER_TICK_SECONDS if counters else POWER_SECONDS
        except pynvml.NVMLError as error:
            raise MeterError(f"NVML: {error}") from error
        methods = [f"total energy of {len(counters)}"] if counters else []
        methods += [f"power over time of {len(others)}"] if others else []
        self.source = f"NVML {' and '.join(methods)} GPU(s)"
        if partitioned:
            self.source += f"; {partitioned} of them with MIG instances, each read as a whole"

    def read_joules(self) -> float:
        """Return the joules of all GPUs since their driver's load or since the meter's creation."""
        try:
            millijoules = [
                self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in self._counters
            ]
        except self._nvml.NVMLError as error:
            raise MeterError(f"NVML: {error}") from error
        joules = float(sum(millijoules)) / 1e3
        return joules + (self._integral.joules() if self._integral is not None else 0.0)

    def _handles(self, names: list[str] | None) -> list[Any]:
        nvml = self._nvml
        count = nvml.nvmlDeviceGetCount()
        if names is None:
            names = [str(i) for i in range(count)]
        handles: dict[str, Any] = {}
        for name in names:
            if name.isdigit():
                if int(name) >= count:
                    raise MeterError(f"NVML: no GPU {name}; there are {count}, numbered from 0")
                handle = nvml.nvmlDeviceGetHandleByIndex(int(name))
            elif name.startswith("GPU-"):
                # As in CUDA, the beginning of a UUID is enough if it is unique.
                all_handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
                matches = [h for h in all_handles if self._uuid(h).startswith(name)]
                if len(matches) != 1:
                    raise MeterError(
                        f"NVML: {len(matches)} GPUs match {name}; give a UUID that matches one GPU"
                    )
                handle = matches[0]
            else:
                handle = nvml.nvmlDeviceGetHandleByUUID(name)
                if name.startswith("MIG-"):
                    handle = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
            # Two MIG instances of one GPU are one device.
            handles[self._uuid(handle)] = handle
        if not handles:
            raise MeterError("NVML: this machine has no GPU")
        return list(handles.values())

    def _uuid(self, handle: Any) -> str:
        uuid = self._nvml.nvmlDeviceGetUUID(handle)
        return uuid.decode() if isinstance(uuid, bytes) else str(uuid)

    def _name(self, handle: Any) -> str:
        name = self._nvml.nvmlDeviceGetName(handle)
        return name.decode() if isinstance(name, bytes) else str(name)

    def _has_mig(self, handle: Any) -> bool:
        try:
            return bool(self._nvml.nvmlDeviceGetMigMode(handle)[0])
        except self._nvml.NVMLError:
            return False

    def _has_counter(self, handle: Any) -> bool:
        try:
            return bool(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        except self._nvml.NVMLError:
            return False

    def _watts(self, handles: list[Any]) -> float:
        try:
            milliwatts = [self._nvml.nvmlDeviceGetPowerUsage(handle) for handle in handles]
        except self._nvml.NVMLError as error:
            raise MeterError(f"NVML: {error}") from error
        return float(sum(milliwatts)) / 1e3


def _visible_devices() -> list[str] | None:
    """Return the devices that CUDA_VISIBLE_DEVICES names; None if it is unset.

    As in CUDA, -1 and all entries behind it are invisible.
    """
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    names = [part for part in takewhile(lambda part: part != "-1", parts) if part]
    if not names:
        raise MeterError("NVML: CUDA_VISIBLE_DEVICES hides all GPUs; unset it or name the GPUs")
    return names
