"""Every public entry point detects kWh in place of joules, and kg in place of grams."""

import json

import gymnasium
import numpy as np
import pytest

import envs.registration
from envs.carbon.csv_traces import read_traces
from envs.carbon.footprint import FootprintModel, footprint_grams
from envs.energy.attribution import Attribution
from envs.energy.coefficients import Coefficients, read_coefficients, token_coefficients
from envs.energy.meter import EnergyReading
from envs.energy.meters.tokens import TokenMeter
from envs.energy.simulator import LLAMA_13B
from envs.errors import UnitError
from envs.outcomes.profile import write_profile
from envs.outcomes.profile_reader import read_profile
from envs.plausible import UnitWarning
from envs.requests.request import Request
from experiments.cli import main
from tests import made
from tests.serving.hooks import config, hook

KWH = 1 / 3.6e6
HINT = r"1 kWh = 3\.6e6 J"
CSV = """request_id,task,model,directive,prompt,prompt_tokens,completion_tokens,energy_joules,\
latency_seconds,correct
a,t,m,none,Hi,5,100,{0},2.4,1
a,t,m,brief,Hi,5,10,{1},0.24,1
"""


def profile(tmp_path, scale):
    path = tmp_path / "profile.parquet"
    requests = [Request(f"r{i}", "t", ({"role": "user", "content": f"q{i}"},)) for i in range(4)]
    rows = made.rows(requests, lambda *_: 1.0)
    for row in rows:
        row["energy_joules"] *= scale
    write_profile(path, rows)
    return path


def test_a_profile_in_kwh_is_refused(tmp_path):
    read_profile(profile(tmp_path, 1.0))
    with pytest.raises(UnitError, match=HINT):
        read_profile(profile(tmp_path, KWH))


def test_a_profile_of_a_machine_that_was_too_busy_to_answer_soon_is_read(tmp_path):
    # 10 J in 1,000 s: an estimate by tokens does not grow while the request waits.
    path = tmp_path / "slow.parquet"
    requests = [Request(f"r{i}", "t", ({"role": "user", "content": f"q{i}"},)) for i in range(4)]
    for method, fits in (("estimated", True), ("measured", False)):
        rows = made.rows(requests, lambda *_: 1.0, latency_seconds=1e3, energy_method=method)
        write_profile(path, rows)
        if fits:
            assert len(read_profile(path).requests) == 4
        else:
            with pytest.raises(UnitError, match=HINT):
                read_profile(path)


def test_the_environment_refuses_a_profile_in_kwh(tmp_path):
    name = f"{envs.registration.__name__}:sprout/Llama2Replay-v0"
    with pytest.raises(UnitError, match=HINT):
        gymnasium.make(name, profile=profile(tmp_path, KWH))


@pytest.mark.parametrize(("unit", "fits"), [("J", False), ("kWh", True)])
def test_an_import_needs_the_right_energy_unit(tmp_path, capsys, unit, fits):
    table = tmp_path / "table.csv"
    table.write_text(CSV.format(588 * KWH, 58.8 * KWH))
    out = tmp_path / "out.parquet"
    status = main(["import", "csv", str(table), "--out", str(out), "--energy-unit", unit])
    assert (status == 0) == fits == out.exists()
    if not fits:
        assert "1 kWh = 3.6e6 J" in capsys.readouterr().err


def test_the_train_command_refuses_a_profile_in_kwh(tmp_path, capsys):
    path = profile(tmp_path, KWH)
    assert main(["train", "--outcomes", str(path), "--out", str(tmp_path / "b")]) == 2
    assert "1 kWh = 3.6e6 J" in capsys.readouterr().err


def test_a_meter_reading_in_the_wrong_unit_is_refused():
    EnergyReading(300.0, 0.0, 1.0, "measured", "made")
    with pytest.raises(UnitError, match=HINT):
        Attribution().window(EnergyReading(300.0 * KWH, 0.0, 1.0, "measured", "made"))
    # A value in joules that was converted from kWh to joules once more.
    with pytest.raises(UnitError, match=HINT):
        EnergyReading(300.0 / KWH, 0.0, 1.0, "measured", "made")


def test_stated_joules_per_token_in_kwh_are_refused(tmp_path):
    with pytest.raises(UnitError, match=HINT):
        TokenMeter(None, 5.88 * KWH)
    with pytest.raises(UnitError, match=HINT):
        token_coefficients(5.88 * KWH, 0.02, "stated")
    with pytest.raises(UnitError, match=HINT):
        hook(tmp_path, joules_per_token=5.88 * KWH)


def test_coefficients_in_kwh_are_refused(tmp_path):
    path = tmp_path / "coefficients.json"
    LLAMA_13B.write(path)
    assert read_coefficients(path).joules == pytest.approx(LLAMA_13B.joules)
    with pytest.raises(UnitError, match=HINT):
        Coefficients(LLAMA_13B.joules * KWH, LLAMA_13B.seconds, "made")
    content = json.loads(path.read_text())
    content["joules"] = {kind: value * KWH for kind, value in content["joules"].items()}
    path.write_text(json.dumps(content))
    with pytest.raises(UnitError, match=HINT):
        read_coefficients(path)


def test_a_footprint_of_energy_in_kwh_warns():
    joules, seconds = np.array([588.0, 58.8]), np.array([2.4, 0.24])
    footprint_grams(joules, seconds, np.array([300.0, 300.0]))
    with pytest.warns(UnitWarning, match=HINT):
        footprint_grams(joules * KWH, seconds, np.array([300.0, 300.0]))
    with pytest.warns(UnitWarning, match=HINT):
        FootprintModel().grams(588.0 * KWH, 2.4, 300.0)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_an_intensity_trace_off_by_a_thousand_warns_or_is_refused(tmp_path, factor):
    path = tmp_path / "grid.csv"
    hours = "".join(f"2024-01-01T{h:02d}:00:00Z,DE,{400 * factor}\n" for h in range(24))
    path.write_text("timestamp_utc,zone,carbon_intensity_g_per_kwh\n" + hours)
    if factor < 1:
        with pytest.warns(UnitWarning, match="1 kg/kWh = 1000 g/kWh"):
            read_traces([path])
    else:
        with pytest.raises(UnitError, match="1 kg/kWh = 1000 g/kWh"):
            read_traces([path])


def test_an_implausible_mean_intensity_warns_or_is_refused(tmp_path):
    with pytest.warns(UnitWarning, match="g/kWh"):
        assert config(tmp_path, intensity="uk", intensity_mean=0.2, clock_start=None).live
    with pytest.raises(UnitError, match="g/kWh"):
        _ = config(tmp_path, intensity="uk", intensity_mean=2e5, clock_start=None).live
