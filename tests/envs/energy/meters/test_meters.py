"""Every meter keeps the same contract, reports its source, and says why it cannot be used."""

import json
import os
import sys
import time
import types

import pytest

from envs.energy.meter import Window, WindowReader
from envs.energy.meters.choose import MeterChoice, candidates, choose_meter
from envs.energy.meters.cpu_time import CpuTimeMeter
from envs.energy.meters.nvml import NvmlMeter
from envs.energy.meters.power import PowerIntegral
from envs.energy.meters.remote import DCGM_ENERGY, RemoteMeter, RemoteSettings
from envs.energy.meters.zeus import ZeusMeter
from envs.errors import ConfigError, MeterError, UnitError
from tests.envs.answering import answering
from tests.envs.energy.meters.devices import Gpu, install, zeus

PAGE = """# HELP DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION Total energy consumption since boot (in mJ).
# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-a",modelName="NVIDIA H100"} %d
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="1",UUID="GPU-b",modelName="NVIDIA H100"} %d
# HELP DCGM_FI_DEV_POWER_USAGE Power draw (in W).
# TYPE DCGM_FI_DEV_POWER_USAGE gauge
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-a",modelName="NVIDIA H100"} 100.5
"""


def vector(**series):
    rows = [{"metric": {"gpu": g}, "value": [1.7e9, str(v)]} for g, v in series.items()]
    data = {"resultType": "vector", "result": rows}
    return json.dumps({"status": "success", "data": data}).encode()


class Counter:
    """Devices in Zeus' interface, at 100 W each."""

    def __init__(self, devices=2, read=None):
        self._devices, self._began, self._read = devices, time.monotonic(), read

    def __len__(self):
        return self._devices

    def get_name(self, index):
        return f"AMD Made {index}"

    def supports_get_total_energy_consumption(self, index):
        return True

    def get_total_energy_consumption(self, index=0):
        millijoules = 1e5 * (time.monotonic() - self._began) + 1
        return self._read(millijoules) if self._read else millijoules


@pytest.fixture(params=["nvml", "power", "amd", "rapl", "apple", "jetson", "page", "watts", "cpu"])
def meter(request, monkeypatch):
    kind, began = request.param, time.monotonic()
    if kind in ("nvml", "power"):
        install(monkeypatch, [Gpu("GPU-a"), Gpu("GPU-b", counts=kind == "nvml")])
        yield NvmlMeter()
    elif kind == "amd":
        zeus(monkeypatch, AMDGPUs=Counter)
        yield ZeusMeter("amd")
    elif kind == "rapl":
        read = lambda mj: types.SimpleNamespace(cpu_mj=mj, dram_mj=None)  # noqa: E731
        zeus(monkeypatch, get_cpus=lambda: Counter(read=read))
        yield ZeusMeter("rapl")
    elif kind in ("apple", "jetson"):
        names = ("cpu_total_mj", "gpu_mj") if kind == "apple" else ("total_energy_mj", "gpu_mj")
        read = lambda mj: types.SimpleNamespace(**dict.fromkeys(names, mj))  # noqa: E731
        zeus(monkeypatch, get_soc=lambda: Counter(read=read))
        yield ZeusMeter("soc")
    elif kind == "page":
        page = lambda _: (200, (PAGE % ((mj := 1e5 * (time.monotonic() - began)), mj)).encode(), {})  # noqa: E731
        with answering(page) as url:
            yield RemoteMeter(RemoteSettings(f"{url}/metrics", tick_seconds=0.01))
    elif kind == "watts":
        with answering(lambda _: (200, vector(a=60, b=40), {})) as url:
            yield RemoteMeter(RemoteSettings(url, "sum by (gpu) (power)", "W", tick_seconds=0.01))
    else:
        yield CpuTimeMeter(os.getpid(), watts_per_core=4.0)


def test_every_meter_counts_work_and_describes_itself(meter):
    window = Window(meter)
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        sum(range(1000))
    reading = window.close()
    assert reading.joules > 0
    assert reading.method == meter.method in ("measured", "estimated")
    assert reading.source == meter.source
    assert reading.devices == meter.devices
    # As documented, a window shorter than a few ticks may leave the counter unchanged.
    assert 0 < meter.tick_seconds <= 0.1
    assert meter.devices
    assert all(isinstance(name, str) for name in meter.devices)
    assert 0 < reading.uncertainty_joules <= reading.joules * 2
    assert reading.start == pytest.approx(time.time() - reading.seconds, abs=2)
    if meter.method == "measured" and "power" not in meter.source:
        assert 20 < reading.joules / reading.seconds < 2000


def test_the_counters_of_several_gpus_add_up_in_joules(monkeypatch):
    install(monkeypatch, [Gpu("GPU-a", 100.0), Gpu("GPU-b", 200.0)])
    meter = NvmlMeter()
    before_first, first, after_first = time.monotonic(), meter.read_joules(), time.monotonic()
    time.sleep(0.2)
    before_last, last, after_last = time.monotonic(), meter.read_joules(), time.monotonic()
    # Readings take time on a busy machine, so the window has a least and a greatest length.
    assert last - first >= 0.9 * 300 * (before_last - after_first)
    assert last - first <= 1.1 * 300 * (after_last - before_first)
    assert meter.devices == ("NVIDIA Made", "NVIDIA Made")


def test_only_the_selected_gpus_are_metered_and_unknown_ones_are_refused(monkeypatch):
    install(monkeypatch, [Gpu("GPU-a"), Gpu("GPU-b"), Gpu("GPU-c", mig=True)])
    assert len(NvmlMeter().devices) == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-a")
    assert len(NvmlMeter().devices) == 2
    assert len(NvmlMeter(["0"]).devices) == 1
    assert len(NvmlMeter(["GPU-b"]).devices) == 1
    with pytest.raises(MeterError, match="3 GPUs match GPU-"):
        NvmlMeter(["GPU-"])
    for hiding in ("", "-1", "-1,0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hiding)
        with pytest.raises(MeterError, match="hides all GPUs"):
            NvmlMeter()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,-1,1")
    assert len(NvmlMeter().devices) == 1
    with pytest.raises(MeterError, match="no GPU 7; there are 3"):
        NvmlMeter(["7"])
    # Two instances of one GPU: NVML counts the energy of the whole GPU only.
    instances_meter = NvmlMeter(["MIG-1", "MIG-2"])
    assert len(instances_meter.devices) == 1
    assert "MIG" in instances_meter.source


def test_the_power_of_a_gpu_without_an_energy_counter_is_integrated(monkeypatch):
    install(monkeypatch, [Gpu("GPU-a", 250.0, counts=False)])
    meter = NvmlMeter()
    assert "power over time" in meter.source
    time.sleep(0.3)
    window = Window(meter)
    time.sleep(0.6)
    reading = window.close()
    # The sampling thread may lag on a busy machine.
    assert reading.joules == pytest.approx(250 * reading.seconds, rel=0.4)


def test_a_lost_gpu_is_an_error(monkeypatch):
    gpu = Gpu("GPU-a")
    install(monkeypatch, [gpu])
    meter = NvmlMeter()
    gpu.broken = True
    with pytest.raises(MeterError, match="Not Supported"):
        meter.read_joules()


def test_a_gap_in_the_power_readings_adds_no_energy():
    state = {"broken": False}

    def watts():
        if state["broken"]:
            raise MeterError("away")
        return 100.0

    integral = PowerIntegral(watts, 0.02)
    time.sleep(0.2)
    before = integral.joules()
    state["broken"] = True
    time.sleep(0.3)
    with pytest.raises(MeterError, match="away"):
        integral.joules()
    state["broken"] = False
    # The integral starts anew, like a reset counter, so a window over the gap is left out.
    assert integral.joules() < before


def test_power_that_nobody_reads_is_no_longer_sampled(monkeypatch):
    monkeypatch.setattr("envs.energy.meters.power._FORGOTTEN_SECONDS", 0.1)
    integral = PowerIntegral(lambda: 100.0, 0.02)
    integral._thread.join(2)
    assert not integral._thread.is_alive()
    time.sleep(0.3)
    # The next reading starts a new integral.
    restarted = time.monotonic()
    assert integral.joules() == 0.0
    deadline = restarted + 10
    while not (joules := integral.joules()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert 0 < joules <= 100 * (time.monotonic() - restarted)


class Stepping:
    """A counter that the test sets."""

    method, source, devices = "measured", "made", ("made",)
    error_ratio, tick_seconds = 0.05, 0.0

    def __init__(self):
        self.joules = 1000.0
        self.error = None

    def read_joules(self):
        if self.error:
            raise MeterError(self.error)
        return self.joules


def test_windows_over_counter_resets_clock_steps_and_faults_are_left_out(monkeypatch):
    meter, clock = Stepping(), {"steady": 100.0, "wall": 1e9}
    monkeypatch.setattr("envs.energy.meter.time.monotonic", lambda: clock["steady"])
    monkeypatch.setattr("envs.energy.meter.time.time", lambda: clock["wall"])
    windows = WindowReader(meter)

    def read_after(seconds, joules, jump=0.0):
        clock["steady"] += seconds
        clock["wall"] += seconds + jump
        meter.joules += joules
        return windows.read()

    assert windows.read() is None
    assert read_after(1, 50).joules == pytest.approx(50)
    # Between two ticks of the counter, the window stays open.
    assert read_after(1, 0) is None
    joined = read_after(1, 70)
    assert (joined.joules, joined.seconds) == (pytest.approx(70), pytest.approx(2))
    # The driver was reloaded, which resets the counter.
    assert read_after(1, -900) is None
    assert read_after(1, 40).joules == pytest.approx(40)
    # The wall clock was set back.
    assert read_after(1, 40, jump=-3600) is None
    assert read_after(1, 40).start == pytest.approx(clock["wall"] - 1)
    meter.error = "away"
    assert read_after(1, 40) is None
    assert windows.problem == "away"
    meter.error = None
    assert read_after(1, 40) is None
    assert read_after(1, 40).joules == pytest.approx(40)
    assert windows.problem is None
    # No machine uses so many joules in a second.
    assert read_after(1, 1e8) is None
    assert "W" in windows.problem
    for _ in range(70):
        read_after(1, 0)
    assert "not moved" in windows.problem
    # An idle server takes no processor time, so an estimate near 0 J is right.
    meter.method = "estimated"
    idle = WindowReader(meter)
    for _ in range(70):
        clock["steady"] += 1
        clock["wall"] += 1
        idle.read()
    assert idle.problem is None
    meter.joules += 0.04
    assert idle.read().joules == pytest.approx(0.04)


def test_a_slow_counters_windows_go_from_tick_to_tick(monkeypatch):
    meter, clock = Stepping(), {"now": 0.0}
    meter.tick_seconds = 3.0
    monkeypatch.setattr("envs.energy.meter.time.monotonic", lambda: clock["now"])
    monkeypatch.setattr("envs.energy.meter.time.time", lambda: 1e9 + clock["now"])
    windows, readings = WindowReader(meter), []
    # 100 W on a counter that ticks every 3 s; the first reading is just before a tick.
    for tenth in range(26, 200):
        clock["now"] = tenth / 10
        meter.joules = 1000 + 300.0 * (tenth // 30)
        if (reading := windows.read()) is not None:
            readings.append(reading)
    assert len(readings) >= 4
    assert [r.joules / r.seconds for r in readings] == pytest.approx(
        [100.0] * len(readings), rel=0.05
    )


def test_dcgm_exporters_counters_add_up_and_an_absent_metric_is_refused(monkeypatch):
    with answering(lambda _: (200, (PAGE % (2000, 3000)).encode(), {})) as url:
        assert RemoteMeter(RemoteSettings(f"{url}/metrics")).read_joules() == pytest.approx(5.0)
        with pytest.raises(MeterError, match="no values"):
            RemoteMeter(RemoteSettings(f"{url}/metrics", "DCGM_FI_DEV_NONE"))


@pytest.mark.parametrize(
    ("unit", "value", "joules"),
    [("J", 7.0, 7.0), ("mJ", 7.0, 0.007), ("Wh", 7.0, 25_200.0), ("kWh", 7.0, 2.52e7)],
)
def test_each_prometheus_unit_is_converted_to_joules(unit, value, joules):
    with answering(lambda _: (200, vector(a=value), {})) as url:
        assert RemoteMeter(RemoteSettings(url, "energy", unit)).read_joules() == pytest.approx(
            joules
        )


def test_a_series_that_vanishes_is_an_error_and_not_energy():
    series = {"a": 5.0, "b": 6.0}
    with answering(lambda _: (200, vector(**series), {})) as url:
        meter = RemoteMeter(RemoteSettings(url, "energy", "J"))
        assert meter.read_joules() == pytest.approx(11)
        del series["b"]
        with pytest.raises(MeterError, match="came or went"):
            meter.read_joules()
        # The next reading counts from the remaining series.
        assert meter.read_joules() == pytest.approx(5)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        *((401, b"no"), (500, b""), (200, b"<html>"), (200, b'{"data": {}}'), (200, b"[]")),
        (200, b'{"data": {"resultType": "scalar", "result": []}}'),
        (200, b'{"data": {"resultType": "vector", "result": [{"metric": {}, "value": [1]}]}}'),
    ],
)
def test_a_broken_prometheus_is_named_in_the_error_without_its_secrets(status, body):
    with answering(lambda _: (status, body, {})) as url:
        secret = url.replace("//", "//me:hunter2@") + "/?token=hunter3"
        with pytest.raises(MeterError) as error:
            RemoteMeter(RemoteSettings(secret, "energy", "J"))
    assert url.split("//")[1] in str(error.value)
    assert "hunter" not in str(error.value)


def test_the_error_of_each_unusable_meter_gives_the_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setitem(sys.modules, "zeus", None)
    for name in ("zeus.device", "zeus.device.gpu"):
        monkeypatch.setitem(sys.modules, name, None)
    reasons = {}
    for candidate in candidates(["http://127.0.0.1:9"], MeterChoice()):
        with pytest.raises(MeterError) as error:
            candidate.make()
        reasons[candidate.kind] = str(error.value)
    assert "nvidia-ml-py is not installed" in reasons["nvml"]
    assert "zeus is not installed" in reasons["rapl"] == reasons["amd"] == reasons["soc"]
    assert "nothing listens" in reasons["cpu"]


def test_zeus_has_the_calls_that_its_meter_makes():
    amd = pytest.importorskip("zeus.device.gpu.amd")
    from zeus.device import cpu, soc

    assert callable(amd.amdsmi_is_available)
    for name in ("get_name", "supports_get_total_energy_consumption"):
        assert callable(getattr(amd.AMDGPUs, name))
    assert callable(amd.AMDGPUs.get_total_energy_consumption)
    assert callable(cpu.get_cpus)
    assert callable(soc.get_soc)


def test_zeus_without_a_device_or_with_a_fault_raises_a_meter_error(monkeypatch):
    zeus(monkeypatch, get_cpus=lambda: Counter(devices=0))
    with pytest.raises(MeterError, match="no AMD GPU"):
        ZeusMeter("amd")
    with pytest.raises(MeterError, match="no device"):
        ZeusMeter("rapl")

    def forbidden():
        raise PermissionError("RAPL requires root\nmore")

    zeus(monkeypatch, get_cpus=forbidden)
    with pytest.raises(MeterError, match=r"rapl: RAPL requires root$"):
        ZeusMeter("rapl")


def test_a_named_meter_is_used_or_the_error_says_why_not(monkeypatch):
    install(monkeypatch, [Gpu("GPU-a")])
    assert isinstance(choose_meter("http://127.0.0.1:9"), NvmlMeter)
    with pytest.raises(MeterError, match="nothing listens"):
        choose_meter("http://127.0.0.1:9", wanted=MeterChoice("cpu"))
    with pytest.raises(ConfigError, match="one of auto, nvml"):
        choose_meter("http://127.0.0.1:9", wanted=MeterChoice("gpu"))
    with pytest.raises(ConfigError, match="meter-url"):
        choose_meter("http://127.0.0.1:9", wanted=MeterChoice("remote"))
    with pytest.raises(MeterError, match="not on this machine"):
        choose_meter("http://llama.example.com:8000")


def test_kilowatt_hours_in_place_of_joules_are_refused():
    class KilowattHours(Stepping):
        def read_joules(self):
            # 300 W, counted in kWh.
            return 300 * time.monotonic() / 3.6e6

    window = Window(KilowattHours())
    time.sleep(0.05)
    with pytest.raises(UnitError, match=r"1 kWh = 3\.6e6 J"):
        window.close()


def test_dcgms_energy_counter_is_the_default_query():
    assert RemoteSettings("http://gpu:9400/metrics").query == DCGM_ENERGY
