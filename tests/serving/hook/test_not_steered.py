"""Carbon intensity or models that do not fit: refused at a first start, not steered later."""

import asyncio
import time

import pytest

from envs.carbon.intensity import iso
from envs.errors import SproutError
from serving.hook import grid as grid_module
from serving.hook.assembly import make_hook
from serving.settings.suspensions import Finding, write_findings
from tests import made
from tests.serving.hooks import CHAT, config, hook, metric

KG, OLD, ZONES = "give grams per kWh", "days ago: give a current trace", "name one of X, Y"


def write(path, days_ago=0.0, value=300.0, zones=("X",), signal="average"):
    end = (time.time() - 86400 * days_ago) // 3600 * 3600
    lines = ["timestamp_utc,zone,carbon_intensity_g_per_kwh,signal"]
    for zone in zones:
        lines += [f"{iso(end - 3600 * h)},{zone},{value},{signal}" for h in range(47, -1, -1)]
    path.write_text("\n".join(lines) + "\n")


def plan(made_hook):
    return asyncio.run(made_hook.plan("/v1/chat/completions", CHAT, {})).record


@pytest.fixture
def settings(tmp_path):
    """The settings of a hook with an intensity file; policy "very_brief"."""
    made.bundle(tmp_path / "bundle")
    write(tmp_path / "grid.csv")
    return config(tmp_path, intensity=str(tmp_path / "grid.csv"), clock_start=None)


WRONG = [({"value": 0.3}, KG), ({"days_ago": 40}, OLD), ({"zones": ("X", "Y")}, ZONES)]


@pytest.mark.filterwarnings("ignore::envs.plausible.UnitWarning")
@pytest.mark.parametrize(("changed", "message"), WRONG)
def test_a_wrong_intensity_is_refused_at_a_first_start_only(
    settings, tmp_path, changed, message, monkeypatch
):
    monkeypatch.setattr(grid_module, "RETRY_SECONDS", 0.0)
    write(tmp_path / "grid.csv", **changed)
    with pytest.raises(SproutError, match=message):
        make_hook(settings, first=True)
    restarted = make_hook(settings, first=False)
    restarted.refresh()
    record = plan(restarted)
    assert (record.directive, record.applied) != ("very_brief", True)
    assert message in restarted.not_steered["*"]
    if record.reason == "no_intensity":
        # Nothing stands in for what is not known.
        assert (record.intensity_g_per_kwh, record.mode) == (None, "on")
        assert metric(restarted, 'sprout_model_suspended{model="*"}') == 1
        assert metric(restarted, 'sprout_fail_open_total{reason="no_intensity"}') == 1
    else:
        assert (record.mode, record.would_be) == ("shadow", "very_brief")
    write(tmp_path / "grid.csv")
    restarted.refresh()
    record = plan(restarted)
    assert (record.directive, record.applied, record.mode) == ("very_brief", True, "on")
    assert restarted.not_steered == {}


@pytest.mark.filterwarnings("ignore::envs.plausible.UnitWarning")
@pytest.mark.parametrize(("changed", "message"), WRONG[:2])
def test_a_wrong_intensity_in_a_reload_stops_the_steering_until_it_is_mended(
    settings, tmp_path, changed, message, caplog
):
    made_hook = make_hook(settings)
    made_hook.refresh()
    assert plan(made_hook).mode == "on"
    write(tmp_path / "grid.csv", **changed)
    for _ in range(4):
        made_hook.refresh()
    record = plan(made_hook)
    assert (record.mode, record.would_be, record.applied) == ("shadow", "very_brief", False)
    loud = [r for r in caplog.records if "model *: not steered" in r.message]
    assert (len(loud), message in loud[0].message) == (1, True)
    # Further zones are no mistake here: the one of the start stays.
    write(tmp_path / "grid.csv", zones=("X", "Y"))
    made_hook.refresh()
    assert plan(made_hook).mode == "on"


def test_a_bundle_of_another_kind_of_intensity_is_not_used_until_the_kind_fits(
    settings, tmp_path, caplog
):
    intensity = {"signal": "average", "scope": "direct"}
    made.bundle(tmp_path / "bundle", extra={"intensity": intensity})
    made_hook = make_hook(settings)
    made_hook.refresh()
    write(tmp_path / "grid.csv", signal="marginal")
    made_hook.refresh()
    made_hook.refresh()
    assert plan(made_hook).reason == "no_bundle"
    assert "trained on average direct" in str(made_hook.policies.problems)
    assert len([r for r in caplog.records if "trained on average direct" in r.message]) == 1
    write(tmp_path / "grid.csv")
    made_hook.refresh()
    made_hook.refresh()
    assert plan(made_hook).directive == "very_brief"


def test_a_model_that_does_not_fit_its_policy_goes_to_shadow_and_comes_back(tmp_path):
    made_hook = hook(tmp_path)
    state = made_hook.config.state
    write_findings(state, {"made": {"length": Finding(version="v", text="longer answers")}})
    made_hook.refresh()
    record = plan(made_hook)
    assert (record.mode, record.would_be) == ("shadow", "very_brief")
    assert made_hook.not_steered == {"made": "longer answers"}
    assert metric(made_hook, 'sprout_model_suspended{model="made"}') == 1
    write_findings(state, {})
    made_hook.refresh()
    assert plan(made_hook).mode == "on"
    assert metric(made_hook, 'sprout_model_suspended{model="made"}') == 0
    made_hook.suspensions.unlisted = {"made": "not listed"}
    assert plan(made_hook).mode == "shadow"
