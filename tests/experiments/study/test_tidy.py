"""An ablation's statistics: paired by seed and fold, and no more said than the runs allow."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.statistics import Interval, mean_of_runs
from experiments.study import tidy
from experiments.study.data import Data
from experiments.study.page import write_page
from experiments.study.tidy import MEASURES, Row, aggregated


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Leave the bootstrap of the interquartile mean short: no test here is about its ends."""
    monkeypatch.setattr(tidy, "RESAMPLES", 100)


DATA = Data(Path("p"), (), None, None, (), {}, "correct", 5, "test")


def runs(variant, saving, excess=None, margin=0.0):
    return [
        Row(
            variant,
            seed,
            seed % 5,
            f"{variant}{seed}",
            value,
            value if excess is None else excess[seed],
            1.0,
            "a",
            margin,
            "a in X",
            margin,
            0,
            {"a": 1.0 if excess is None else excess[seed], "b": 1.0},
        )
        for seed, value in enumerate(saving)
    ]


def page(rows, tmp_path, names=("full", "other")):
    summary = aggregated(rows, list(names))
    return summary, write_page(tmp_path / "p.md", "Does it?", summary, rows, DATA)


def test_a_small_difference_that_every_pair_shows_is_told_despite_a_large_spread(tmp_path):
    rng = np.random.default_rng(0)
    base = rng.normal(40, 10, 8)
    other = base + rng.normal(2.0, 0.3, 8)
    same = [1.0] * 8
    summary, text = page(runs("full", base, same) + runs("other", other, same), tmp_path)
    difference = summary.against["other"]["saving"]
    assert difference.value == pytest.approx(2.0, abs=0.3)
    assert difference.high - difference.low < 1.0
    # The means alone could not tell them apart.
    assert summary.saving["full"].high > summary.saving["other"].low
    assert f"**other** saves {difference.value:.1f} [" in text
    assert "points more carbon" in text
    assert "cannot be told apart from full by excess" in text


def test_variants_that_differ_by_nothing_cannot_be_told_apart(tmp_path):
    rng = np.random.default_rng(1)
    base = rng.normal(40, 10, 6)
    _, text = page(runs("full", base) + runs("other", base + rng.normal(0, 1, 6)), tmp_path)
    assert "- **other** cannot be told apart from full by excess, carbon saved," in text


def test_fewer_than_five_runs_have_no_interval_and_no_conclusion(tmp_path):
    summary, text = page(runs("full", [40.0] * 4) + runs("other", [50.0] * 4), tmp_path)
    document = summary.to_json()
    for name in (*MEASURES, "iqm"):
        assert document[name]["other"]["ci95"] is None
    assert document["paired_difference"]["other"]["saving"]["value"] == 10
    assert "fewer than 5 runs, so nothing is said" in text
    assert "[" not in text.split("## Difference")[1].split("![figure]")[0]
    json.dumps(document, allow_nan=False)


def test_a_difference_that_is_equal_in_every_run_is_told_without_an_interval(tmp_path):
    rng = np.random.default_rng(2)
    base = rng.normal(40, 10, 6)
    other = [replace(row, missed_in_zones=2) for row in runs("other", base + rng.normal(0, 1, 6))]
    summary, text = page(runs("full", base) + other, tmp_path)
    assert summary.to_json()["paired_difference"]["other"]["missed"] == {"value": 2, "ci95": None}
    assert "misses 2.0 floors by task and zone more in every run, so without an interval" in text
    assert "[+2.0" not in text
    # Where no run differs, there is nothing to tell.
    assert "cannot be told apart from full by excess, carbon saved, quality, its worst task" in text


def test_runs_without_a_partner_are_no_comparison():
    with pytest.raises(ValueError, match="not the same seeds"):
        aggregated(runs("full", [1.0] * 6) + runs("other", [1.0] * 5), ["full", "other"])


def test_the_interval_over_runs_holds_the_truth_in_95_of_100_studies():
    rng = np.random.default_rng(2)
    studies = [mean_of_runs(rng.normal(1.0, 3.0, 5)) for _ in range(2000)]
    held = np.mean([study.low <= 1.0 <= study.high for study in studies])
    assert 0.935 < held < 0.965


@pytest.mark.parametrize(
    ("interval", "sign"),
    [((1, 0.5, 2), 1), ((-1, -2, -0.5), -1), ((1, -1, 2), 0), ((1, float("nan"), 2), 0)],
)
def test_a_sign_is_that_of_the_whole_interval(interval, sign):
    assert Interval(*interval).sign == sign
