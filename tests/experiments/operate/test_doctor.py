"""`sprout doctor` reports the meter in use, the reason, and what would be better."""

import json
import sys

import pytest

from experiments.cli import main
from tests.envs.answering import answering
from tests.envs.energy.meters.devices import Gpu, install


@pytest.fixture
def run_doctor(tmp_path, capsys):
    def run(*flags):
        path = tmp_path / "doctor.json"
        assert main(["doctor", "--json", str(path), *flags]) == 0
        return json.loads(path.read_text()), capsys.readouterr().out

    return run


def test_without_a_gpu_the_doctor_reports_the_cpu_meter_and_suggests_a_remote_one(
    run_doctor, monkeypatch
):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    report, output = run_doctor()
    assert report["used"].startswith("cpu: ")
    assert "estimated" in report["used"]
    assert report["used_by_hook"] == "none: requests keep estimates from their tokens"
    assert "--meter remote" in report["better"]
    reasons = {row["kind"]: row["found"] for row in report["meters"]}
    assert "nvidia-ml-py is not installed" in reasons["nvml"]
    assert set(reasons) == {"nvml", "amd", "soc", "rapl", "cpu"}
    assert report["used"][:40] in output.replace("\n", " ")


def test_with_a_gpu_the_doctor_reports_its_nvml_meter_and_hardware(run_doctor, monkeypatch):
    gpu = Gpu("GPU-a")
    install(monkeypatch, [gpu])
    monkeypatch.setattr(
        sys.modules["pynvml"], "nvmlDeviceGetName", lambda _: "NVIDIA H100 80GB HBM3"
    )
    report, _ = run_doctor()
    assert report["used"].startswith("nvml: NVML total energy of 1 GPU(s); measured, within 5 %")
    assert "(catalogue: h100-sxm)" in report["used"]
    assert report["better"] is None


def test_a_remote_meter_is_read_and_an_unreachable_one_is_reported(run_doctor):
    page = b"# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter\n"
    page += b'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0"} 5\n'
    with answering(lambda _: (200, page, {})) as url:
        report, _ = run_doctor("--meter-url", f"{url}/metrics")
    assert "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION" in report["used"]
    report_without_meter, _ = run_doctor("--meter-url", f"{url}/metrics")
    assert report_without_meter["used"] == "none (--meter remote)"
    assert f"{url}/metrics" in report_without_meter["meters"][0]["found"]


def test_a_server_on_another_machine_has_no_local_meter(run_doctor, monkeypatch):
    install(monkeypatch, [Gpu("GPU-a")])
    report, _ = run_doctor("--upstream", "http://gpu.example.com:8000")
    assert report["used"] == "none (http://gpu.example.com:8000 is not on this machine)"
    assert report["used_by_hook"].startswith("none")
    assert "remote" in report["better"]
