"""Energy of AMD GPUs, Apple silicon, Jetson and RAPL through Zeus (https://ml.energy/zeus).

Zeus counts mJ from a fixed moment for every kind of device, and handles overflows of RAPL's
counters.
"""

import warnings
from typing import Any, Literal

from envs.errors import MeterError

Part = Literal["amd", "soc", "rapl"]
# AMD: the counter's documented resolution; RAPL against external meters: Khan et al., ACM
# TOMPECS 3(2), 2018. Apple states no error.
_ERROR_RATIOS: dict[Part, float] = {"amd": 0.05, "soc": 0.1, "rapl": 0.05}
# Apple's and Jetson's counters whose sum is the whole chip, used if no single counter is.
_SOC_PARTS = ("cpu_total_mj", "dram_mj", "gpu_mj", "gpu_sram_mj", "ane_mj")
_SOC_WHOLES = ("total_energy_mj",)


class ZeusMeter:
    """Summed energy of all devices of one kind.

    Args:
        part: "amd" (GPUs), "soc" (Apple silicon, Jetson), or "rapl" (processors and memory).

    Raises:
        MeterError: Zeus is not installed, finds no such device, or lacks permission to read it.
    """

    method = "measured"
    tick_seconds = 0.05

    def __init__(self, part: Part) -> None:
        self.error_ratio = _ERROR_RATIOS[part]
        self._part = part
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._counters, self.devices = _find_devices(part)
            self.read_joules()
        except MeterError:
            raise
        except ImportError as error:
            raise MeterError("Zeus: package zeus is not installed (extra [zeus])") from error
        except Exception as error:
            # Zeus' own errors share no base class with those of the libraries below it.
            raise MeterError(f"Zeus, {part}: {_first_line(error)}") from error
        self.source = f"Zeus, {part}: {', '.join(self.devices)}"

    def read_joules(self) -> float:
        """Return the joules since a fixed moment."""
        try:
            return self._millijoules() / 1e3
        except Exception as error:
            raise MeterError(f"Zeus, {self._part}: {_first_line(error)}") from error

    def _millijoules(self) -> float:
        counters = self._counters
        if self._part == "amd":
            return float(
                sum(counters.get_total_energy_consumption(i) for i in range(len(counters)))
            )
        if self._part == "rapl":
            packages = [counters.get_total_energy_consumption(i) for i in range(len(counters))]
            return float(sum(p.cpu_mj + (p.dram_mj or 0.0) for p in packages))
        chip = counters.get_total_energy_consumption()
        wholes = [getattr(chip, name, None) for name in _SOC_WHOLES]
        parts = [value for value in wholes if value is not None] or [
            value for name in _SOC_PARTS if (value := getattr(chip, name, None)) is not None
        ]
        if not parts:
            raise MeterError("Zeus, soc: the chip has none of the known energy counters")
        return float(sum(parts))


def _find_devices(part: Part) -> tuple[Any, tuple[str, ...]]:
    """Return Zeus' object for the devices of one kind, and the devices' names."""
    if part == "amd":
        from zeus.device.gpu import amd

        # Ask for AMD explicitly: Zeus' own choice prefers NVIDIA's GPUs.
        if not amd.amdsmi_is_available():
            raise MeterError("Zeus, amd: no AMD GPU, or ROCm is not installed")
        counters = amd.AMDGPUs()
        names = tuple(counters.get_name(i) for i in range(len(counters)))
        if not all(counters.supports_get_total_energy_consumption(i) for i in range(len(counters))):
            raise MeterError("Zeus, amd: a GPU has no energy counter")
    elif part == "rapl":
        from zeus.device import cpu

        counters = cpu.get_cpus()
        names = tuple(f"processor package {i}" for i in range(len(counters)))
    else:
        from zeus.device import soc

        counters = soc.get_soc()
        names = (type(counters).__name__,)
    if not names:
        raise MeterError(f"Zeus, {part}: no device")
    return counters, names


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
