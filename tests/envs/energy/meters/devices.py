"""Fakes of the libraries that the meters read."""

import sys
import time
import types


class NVMLError(Exception):
    pass


class Gpu:
    def __init__(self, uuid, watts=300.0, counts=True, mig=False):
        self.uuid, self.watts, self.counts, self.mig = uuid, watts, counts, mig
        self.began = time.monotonic()
        self.broken = False

    def millijoules(self):
        return int(1e3 * self.watts * (time.monotonic() - self.began)) + 1


def pynvml(gpus):
    """Return a module with the calls of nvidia-ml-py that the meter makes."""
    nvml = types.ModuleType("pynvml")
    nvml.NVMLError = NVMLError

    def energy(gpu):
        if gpu.broken or not gpu.counts:
            raise NVMLError("Not Supported")
        return gpu.millijoules()

    def power(gpu):
        if gpu.broken:
            raise NVMLError("GPU is lost")
        return int(1e3 * gpu.watts)

    def by_uuid(uuid):
        if uuid.startswith("MIG-"):
            return ("mig", next(g for g in gpus if g.mig))
        return next(g for g in gpus if g.uuid == uuid)

    nvml.nvmlInit = lambda: None
    nvml.nvmlDeviceGetCount = lambda: len(gpus)
    nvml.nvmlDeviceGetHandleByIndex = lambda i: gpus[i]
    nvml.nvmlDeviceGetHandleByUUID = by_uuid
    nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle = lambda handle: handle[1]
    nvml.nvmlDeviceGetUUID = lambda gpu: gpu.uuid
    nvml.nvmlDeviceGetName = lambda gpu: "NVIDIA Made"
    nvml.nvmlDeviceGetMigMode = lambda gpu: [int(gpu.mig), int(gpu.mig)]
    nvml.nvmlDeviceGetTotalEnergyConsumption = energy
    nvml.nvmlDeviceGetPowerUsage = power
    return nvml


def install(monkeypatch, gpus):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", pynvml(gpus))


def zeus(monkeypatch, **parts):
    """Install fake Zeus modules with the calls that the meter makes.

    `parts` holds those of `AMDGPUs`, `get_cpus` and `get_soc` that a test needs. The tests'
    environment lacks Zeus itself, because its dependency for AMD GPUs keeps Ray from starting on
    a machine without one. If Zeus is installed, `test_zeus_has_the_calls_that_its_meter_makes`
    checks that it has the calls faked here.
    """
    modules = {
        name: types.ModuleType(name)
        for name in (
            *("zeus", "zeus.device", "zeus.device.gpu", "zeus.device.gpu.amd"),
            *("zeus.device.cpu", "zeus.device.soc"),
        )
    }
    modules["zeus.device.gpu"].amd = modules["zeus.device.gpu.amd"]
    modules["zeus.device"].cpu = modules["zeus.device.cpu"]
    modules["zeus.device"].soc = modules["zeus.device.soc"]
    modules["zeus.device.gpu.amd"].amdsmi_is_available = lambda: "AMDGPUs" in parts
    modules["zeus.device.gpu.amd"].AMDGPUs = parts.get("AMDGPUs")
    modules["zeus.device.cpu"].get_cpus = parts.get("get_cpus")
    modules["zeus.device.soc"].get_soc = parts.get("get_soc")
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
