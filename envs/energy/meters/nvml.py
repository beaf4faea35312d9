"""NVIDIA GPUs through NVML."""

import os
from collections.abc import Sequence
from typing import Any

from envs.energy.meters.power import PowerIntegral
from envs.errors import MeterError

# Found on A100s and H100s against external meters, for the counter as for power (Yang, Adamek &
# Armour, SC24, https://arxiv.org/abs/2312.02741).
ERROR_RATIO = 0.05
# The counter advances every 20 to 100 ms.
COUNTER_TICK_SECONDS = 0.1
POWER_SECONDS = 0.05


class NvmlMeter:
    """Sum over GPUs of the total-energy counter (Volta and later), else of their power over time.

    NVML knows no energy of a MIG instance: a GPU that is cut into instances counts as a whole,
    and the source says so. In a container, the GPUs are those that it was given.

    Args:
        devices: NVML's indices (as nvidia-smi shows them; CUDA's are the same with
            CUDA_DEVICE_ORDER=PCI_BUS_ID) or UUIDs; default those of CUDA_VISIBLE_DEVICES, else all.

    Raises:
        MeterError: the package, the driver or the GPUs are not there.
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
            handles = self._handles(_asked() if devices is None else list(devices))
            self.devices = tuple(self._name(handle) for handle in handles)
            cut = sum(self._is_cut(handle) for handle in handles)
            counting = [handle for handle in handles if self._counts(handle)]
            self._counting = counting
            rest = [handle for handle in handles if handle not in counting]
            watts = (lambda: self._watts(rest)) if rest else None
            self._integral = PowerIntegral(watts, POWER_SECONDS) if watts else None
            self.tick_seconds = COUNTER_TICK_SECONDS if counting else POWER_SECONDS
        except pynvml.NVMLError as error:
            raise MeterError(f"NVML: {error}") from error
        kinds = [f"total energy of {len(counting)}"] if counting else []
        kinds += [f"power over time of {len(rest)}"] if rest else []
        self.source = f"NVML {' and '.join(kinds)} GPU(s)"
        if cut:
            self.source += f"; {cut} of them with MIG instances, each read as a whole"

    def read_joules(self) -> float:
        """J used by the GPUs, each since its driver was loaded or since the meter was made."""
        try:
            # mJ
            read = [self._nvml.nvmlDeviceGetTotalEnergyConsumption(d) for d in self._counting]
        except self._nvml.NVMLError as error:
            raise MeterError(f"NVML: {error}") from error
        joules = float(sum(read)) / 1e3
        return joules + (self._integral.joules() if self._integral is not None else 0.0)

    def _handles(self, asked: list[str] | None) -> list[Any]:
        nvml = self._nvml
        count = nvml.nvmlDeviceGetCount()
        if asked is None:
            asked = [str(i) for i in range(count)]
        found: dict[str, Any] = {}
        for name in asked:
            if name.isdigit():
                if int(name) >= count:
                    raise MeterError(f"NVML: no GPU {name}; there are {count}")
                handle = nvml.nvmlDeviceGetHandleByIndex(int(name))
            elif name.startswith("GPU-"):
                # As CUDA takes them, their beginning is enough.
                every = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
                mine = [h for h in every if self._uuid(h).startswith(name)]
                if len(mine) != 1:
                    raise MeterError(f"NVML: {len(mine)} GPUs {name}")
                handle = mine[0]
            else:
                handle = nvml.nvmlDeviceGetHandleByUUID(name)
                if name.startswith("MIG-"):
                    handle = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
            # Two instances of one GPU are one device.
            found[self._uuid(handle)] = handle
        if not found:
            raise MeterError("NVML: no GPU")
        return list(found.values())

    def _uuid(self, handle: Any) -> str:
        uuid = self._nvml.nvmlDeviceGetUUID(handle)
        return uuid.decode() if isinstance(uuid, bytes) else str(uuid)

    def _name(self, handle: Any) -> str:
        name = self._nvml.nvmlDeviceGetName(handle)
        return name.decode() if isinstance(name, bytes) else str(name)

    def _is_cut(self, handle: Any) -> bool:
        try:
            return bool(self._nvml.nvmlDeviceGetMigMode(handle)[0])
        except self._nvml.NVMLError:
            return False

    def _counts(self, handle: Any) -> bool:
        try:
            return bool(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        except self._nvml.NVMLError:
            return False

    def _watts(self, handles: list[Any]) -> float:
        try:
            # mW
            return float(sum(self._nvml.nvmlDeviceGetPowerUsage(h) for h in handles)) / 1e3
        except self._nvml.NVMLError as error:
            raise MeterError(f"NVML: {error}") from error


def _asked() -> list[str] | None:
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return None
    names = [part.strip() for part in listed.split(",") if part.strip()]
    if not names:
        raise MeterError("NVML: CUDA_VISIBLE_DEVICES hides all GPUs")
    return names
