"""AMD GPUs, Apple silicon, Jetson and RAPL, through Zeus (https://ml.energy/zeus).

Zeus counts from a fixed moment in mJ whatever the device, and keeps count of RAPL's counter when
it wraps.
"""

import warnings
from typing import Any, Literal

from envs.errors import MeterError

Part = Literal["amd", "soc", "rapl"]
# AMD: the counter's documented resolution; RAPL against external meters: Khan et al., ACM
# TOMPECS 3(2), 2018. Apple states none.
_ERROR_RATIOS: dict[Part, float] = {"amd": 0.05, "soc": 0.1, "rapl": 0.05}
# What of Apple's and Jetson's counters adds up to the whole chip.
_SOC_PARTS = ("cpu_total_mj", "dram_mj", "gpu_mj", "gpu_sram_mj", "ane_mj")
_SOC_WHOLES = ("total_energy_mj",)


class ZeusMeter:
    """Joules of all devices of one kind.

    Args:
        part: "amd" (GPUs), "soc" (Apple silicon, Jetson), or "rapl" (processors and memory).

    Raises:
        MeterError: Zeus is not installed, or finds no such device, or may not read it.
    """

    method = "measured"
    tick_seconds = 0.05

    def __init__(self, part: Part) -> None:
        self.error_ratio = _ERROR_RATIOS[part]
        self._part = part
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._devices, self.devices = _found(part)
            self.read_joules()
        except MeterError:
            raise
        except ImportError as error:
            raise MeterError("Zeus: package zeus is not installed (extra [zeus])") from error
        except Exception as error:
            # Its own errors share no base with those of the libraries beneath it.
            raise MeterError(f"Zeus, {part}: {_first_line(error)}") from error
        self.source = f"Zeus, {part}: {', '.join(self.devices)}"

    def read_joules(self) -> float:
        """J since some fixed moment."""
        try:
            return self._millijoules() / 1e3
        except Exception as error:
            raise MeterError(f"Zeus, {self._part}: {_first_line(error)}") from error

    def _millijoules(self) -> float:
        found = self._devices
        if self._part == "amd":
            return float(sum(found.get_total_energy_consumption(i) for i in range(len(found))))
        if self._part == "rapl":
            read = [found.get_total_energy_consumption(i) for i in range(len(found))]
            return float(sum(r.cpu_mj + (r.dram_mj or 0.0) for r in read))
        read = found.get_total_energy_consumption()
        whole = [getattr(read, name, None) for name in _SOC_WHOLES]
        parts = [value for value in whole if value is not None] or [
            value for name in _SOC_PARTS if (value := getattr(read, name, None)) is not None
        ]
        if not parts:
            raise MeterError("Zeus, soc: none of its counters is there")
        return float(sum(parts))


def _found(part: Part) -> tuple[Any, tuple[str, ...]]:
    if part == "amd":
        from zeus.device.gpu import amd

        # Zeus' own choice would be NVIDIA's GPUs first.
        if not amd.amdsmi_is_available():
            raise MeterError("Zeus, amd: no AMD GPU, or no ROCm")
        found = amd.AMDGPUs()
        names = tuple(found.get_name(i) for i in range(len(found)))
        if not all(found.supports_get_total_energy_consumption(i) for i in range(len(found))):
            raise MeterError("Zeus, amd: a GPU without a counter of energy")
    elif part == "rapl":
        from zeus.device import cpu

        found = cpu.get_cpus()
        names = tuple(f"processor package {i}" for i in range(len(found)))
    else:
        from zeus.device import soc

        found = soc.get_soc()
        names = (type(found).__name__,)
    if not names:
        raise MeterError(f"Zeus, {part}: no device")
    return found, names


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
