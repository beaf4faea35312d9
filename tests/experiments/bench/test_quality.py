"""The benchmarks of watched quality print what they promise, on short runs."""

import json

import numpy as np
import pytest

from experiments.bench.quality.hours import firings, judged, perfect, trigger
from experiments.cli import main
from tests import made
from tests.agents.methods.test_sprout import PUBLISHED


def test_the_evaluator_fires_as_published_and_waiting_saves_grams(shared_data, tmp_path, capsys):
    out = tmp_path / "hours.json"
    flags = ["--traces", str(shared_data / "carbon_intensity"), "--json", str(out)]
    assert main(["bench", "hours", *flags, "--delays", "24"]) == 0
    zones = json.loads(out.read_text())["zones"]
    counts = {
        start: {zone: row["firings"][str(start)]["look_ahead"] for zone, row in zones.items()}
        for start in PUBLISHED
    }
    assert counts == PUBLISHED
    for row in zones.values():
        ways = row["grams"]
        bound = ways["perfect forecast, 24 h (a bound)"]["ratio"]
        assert bound < ways["forecast as yesterday, 24 h"]["ratio"] < 1
        assert ways["SPROUT's rule, past mean"]["ratio"] < 1
        assert ways["forecast as yesterday, 24 h"]["longest_wait"] <= 24
    assert "known in hindsight" in capsys.readouterr().out


def test_on_a_grid_that_never_changes_nothing_is_saved():
    calm = np.full(24 * 20, 100.0)
    assert judged(calm, trigger(calm, "forecast", 24))["ratio"] == pytest.approx(1.0)
    assert judged(calm, perfect(calm, 24))["ratio"] == pytest.approx(1.0)
    assert firings(calm)["look_ahead"] == firings(calm)["trailing"]


def test_the_watch_bench_pairs_both_gateways(tmp_path, capsys):
    made.bundle(tmp_path / "bundle")
    out = tmp_path / "watch.json"
    flags = ["--policy", str(tmp_path / "bundle"), "--rounds", "5", "--seconds", "0.2"]
    assert main(["bench", "watch", *flags, "--sample", "0.2", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert len(result["cpu"]["rounds"]) == 5
    assert result["cpu"]["without"] > 0
    assert "processor time per request, with / without" in capsys.readouterr().out
