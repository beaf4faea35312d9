import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.carbon.footprint import (
    FootprintModel,
    footprint_grams,
    make_footprint_model,
    per_functional_unit,
)
from envs.carbon.hardware import find_hardware, hardware_catalogue, match_hardware
from envs.errors import ConfigError

CARDS = ("a100-sxm-80gb", "h100-sxm", "h200-sxm", "l40s", "rtx-4090", "cpu")


def test_the_specifications_example_of_sci_is_reproduced():
    # The example of ISO/IEC 21031: 1,000 kg over 4 years, all of it reserved for an hour.
    model = FootprintModel(embodied_grams=1e6, life_seconds=4 * 365 * 86400)
    assert model.grams(0.0, 3600.0, 0.0) == pytest.approx(28.5, abs=0.1)


@given(st.floats(10, 1e5), st.floats(1, 3600), st.floats(0, 1000), st.floats(1, 2))
def test_operational_carbon_follows_pue_and_embodied_does_not(joules, seconds, grid, pue):
    plain, worse = FootprintModel(), FootprintModel(pue=pue)
    embodied = plain.grams(0.0, seconds, grid)
    assert worse.grams(0.0, seconds, grid) == embodied
    operational = plain.grams(joules, seconds, grid) - embodied
    assert worse.grams(joules, seconds, grid) - embodied == pytest.approx(pue * operational)
    assert plain.grams(joules, seconds, grid) == footprint_grams(joules, seconds, grid)


def test_reserving_half_of_the_devices_halves_their_embodied_carbon():
    full = make_footprint_model(find_hardware("h100-sxm"), 8, pue=1.2, life_years=5)
    half = make_footprint_model(
        find_hardware("h100-sxm"), 8, pue=1.2, life_years=5, reserved_ratio=0.5
    )
    assert half.embodied_g_per_second == pytest.approx(full.embodied_g_per_second / 2)
    assert "8 x NVIDIA H100 SXM" in full.source


@pytest.mark.parametrize(
    "wrong", [{"pue": 0.9}, {"life_seconds": 0}, {"reserved_ratio": 0}, {"reserved_ratio": 1.5}]
)
def test_impossible_footprint_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match="PUE of 1 or more"):
        FootprintModel(**wrong)


def test_grams_are_given_per_request_per_1k_tokens_and_per_correct_answer():
    grams = per_functional_unit(12.0, requests=4, tokens=6000, correct=3)
    assert grams == {
        "grams_per_request": 3.0,
        "grams_per_1k_generated_tokens": 2.0,
        "grams_per_correct_answer": 4.0,
    }
    assert per_functional_unit(12.0, 4, 0, None) == {"grams_per_request": 3.0}


def test_the_catalogue_gives_a_source_for_each_figure():
    assert set(CARDS) <= set(hardware_catalogue())
    for device in hardware_catalogue().values():
        low, high = device.embodied_range_kg
        assert low <= device.embodied_kg <= high
        assert device.idle_watts < device.watts
        for source in (device.embodied_source, device.host_source, device.specification):
            assert len(source) > 10
    with pytest.raises(ConfigError, match="one of a100-sxm-80gb"):
        find_hardware("abacus")


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200-sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-pcie-40gb"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("Tesla T4", None),
    ],
)
def test_devices_are_matched_by_the_drivers_name_for_them(driver, name):
    hardware = match_hardware(driver)
    assert (hardware.name if hardware else None) == name
