import json

import numpy as np
import pytest

from experiments.cli import main
from experiments.reproduce.data import PUBLISHED_FIRINGS, STARTS, ZONES, read_data
from experiments.reproduce.methods import METHODS, clairvoyant
from experiments.reproduce.runs import Run, played
from experiments.reproduce.window import draw, table_cell


@pytest.fixture(scope="module")
def data(shared_data):
    return read_data(shared_data)


@pytest.fixture(scope="module")
def window(data):
    return data.window(draw(data.profile, data.mix, seed=0), "GB", 800, 0.1)


@pytest.mark.long
def test_reproduce_sprout_gives_the_published_table(shared_data, tmp_path, capsys):
    path = tmp_path / "result.json"
    flags = ["--data", str(shared_data), "--seeds", "2", "--mixes", "1", "--json", str(path)]
    assert main(["reproduce", "sprout", *flags]) == 0
    result = json.loads(path.read_text())
    cells = {(c["region"], c["start_hour"], c["method"]): c for c in result["cells"]}
    assert len(cells) == 15 * 8
    for start in STARTS:
        firings = tuple(cells[region, start, "sprout_lp"]["firings"] for region in ZONES)
        assert firings == PUBLISHED_FIRINGS[start]
    means = result["means"]
    assert means["sprout_lp"]["saving_pct"] == pytest.approx(51.4, abs=2)
    assert means["sprout_lp"]["preference_pct_of_base"] == pytest.approx(94.0, abs=1)
    assert means["co2_opt"]["saving_pct"] == pytest.approx(85.9, abs=0.5)
    assert means["clairvoyant"]["saving_pct"] > means["per_task_lp"]["saving_pct"]
    assert len(result["xi_sweep"]) == 29 * 5
    assert "Times the evaluator fired" in capsys.readouterr().out


def test_the_evaluator_fires_as_often_as_published_and_sprouts_lp_saves_as_much(data):
    rows = list(played(data, Run(0, None, ("sprout_lp",))))
    for start in STARTS:
        firings = tuple(row.firings for row in rows if row.start_hour == start)
        assert firings == PUBLISHED_FIRINGS[start]
    assert np.mean([row.cell.saving_pct for row in rows]) == pytest.approx(51.4, abs=2)


def test_every_hour_is_drawn_from_its_mix_of_tasks(data):
    sample = draw(data.profile, data.mix, seed=3)
    assert sample.rows.shape == (720, 1000)
    shares = np.stack([np.bincount(row, minlength=6) for row in sample.task]) / 1000
    assert np.abs(shares - data.mix.shares).max() < 0.07
    assert shares.mean(axis=0) == pytest.approx(data.mix.shares.mean(axis=0), abs=0.002)
    tasks = np.array([request.task for request in data.profile.requests])
    assert (tasks[sample.rows[5]] == np.array(sample.tasks)[sample.task[5]]).all()


def test_sums_by_task_add_up_to_the_total_of_the_hour(window):
    assert window.grams == pytest.approx(window.request_grams().sum(axis=1))
    assert window.scores == pytest.approx(window.sample.scores.sum(axis=1))


def test_no_method_beats_the_clairvoyant_at_the_floors(window):
    best = table_cell(window, clairvoyant(window))
    cells = {name: table_cell(window, method(window)) for name, method in METHODS.items()}
    assert cells["base"].saving_pct == pytest.approx(0, abs=1e-9)
    assert best.saving_pct > max(
        cell.saving_pct
        for method_name, cell in cells.items()
        if method_name not in ("co2_opt", "sprout_oracle")
    )
    for name, cell in cells.items():
        assert sum(cell.shares) == pytest.approx(1), name
        assert cell.worst_task_ratio <= cell.preference_pct_of_base / 100 + 1e-9


def test_two_runs_with_one_seed_are_equal(data):
    run = Run(4, 1, ("sprout_lp",), (800,))
    assert list(played(data, run)) == list(played(data, run))


def test_a_missing_data_folder_or_trace_is_named_in_the_error(tmp_path, capsys):
    assert main(["reproduce", "sprout", "--data", str(tmp_path / "no")]) == 2
    assert "no such folder" in capsys.readouterr().err
    (tmp_path / "carbon_intensity").mkdir()
    assert main(["reproduce", "sprout", "--data", str(tmp_path)]) == 2
    assert "carbon_intensity: holds no CSV" in capsys.readouterr().err
