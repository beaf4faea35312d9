"""The doctor says which meter will be used, why, and what would be better."""

import json
import sys

import pytest

from experiments.cli import main
from tests.envs.answering import answering
from tests.envs.energy.meters.devices import Gpu, install


@pytest.fixture
def told(tmp_path, capsys):
    def ask(*flags):
        path = tmp_path / "doctor.json"
        assert main(["doctor", "--json", str(path), *flags]) == 0
        return json.loads(path.read_text()), capsys.readouterr().out

    return ask


def test_without_a_gpu_it_says_what_is_used_and_what_would_be_better(told, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found, shown = told()
    assert found["used"].startswith("cpu: ")
    assert "estimated" in found["used"]
    assert found["used_by_hook"] == "none: requests keep estimates by their tokens"
    assert "--meter remote" in found["better"]
    why = {row["kind"]: row["found"] for row in found["meters"]}
    assert "nvidia-ml-py is not installed" in why["nvml"]
    assert set(why) == {"nvml", "amd", "soc", "rapl", "cpu"}
    assert found["used"][:40] in shown.replace("\n", " ")


def test_with_a_gpu_it_names_it(told, monkeypatch):
    gpu = Gpu("GPU-a")
    install(monkeypatch, [gpu])
    monkeypatch.setattr(
        sys.modules["pynvml"], "nvmlDeviceGetName", lambda _: "NVIDIA H100 80GB HBM3"
    )
    found, _ = told()
    assert found["used"].startswith("nvml: NVML total energy of 1 GPU(s); measured, within 5 %")
    assert "(catalogue: h100-sxm)" in found["used"]
    assert found["better"] is None


def test_a_meter_from_afar_is_tried(told):
    page = b"# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter\n"
    page += b'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0"} 5\n'
    with answering(lambda _: (200, page, {})) as url:
        found, _ = told("--meter-url", f"{url}/metrics")
    assert "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION" in found["used"]
    gone, _ = told("--meter-url", f"{url}/metrics")
    assert gone["used"] == "none (asked for)"
    assert f"{url}/metrics" in gone["meters"][0]["found"]


def test_a_server_elsewhere_has_no_meter_here(told, monkeypatch):
    install(monkeypatch, [Gpu("GPU-a")])
    found, _ = told("--upstream", "http://gpu.example.com:8000")
    assert found["used"] == "none (http://gpu.example.com:8000 is not on this machine)"
    assert found["used_by_hook"].startswith("none")
    assert "remote" in found["better"]
