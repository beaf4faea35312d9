"""Quality by task and zone: a zone whose users get worse answers is not hidden by the others."""

import numpy as np
import pytest

from agents.methods.scene import build_scene
from envs.carbon.csv_traces import read_trace
from experiments.evaluate.cells import quality_cells
from experiments.evaluate.repeat import Repeat
from tests import made
from tests.experiments.evaluate.test_evaluate import write_trace

KINDS = {"easy": "What is item {n}?", "hard": "Why is {n} so?"}


@pytest.fixture
def scene(tmp_path):
    """Two zones, two months; brief answers keep all of "easy" and nothing of "hard"."""
    profile = made.profile(
        tmp_path, made.chats(300, KINDS), lambda r, d: float(r.task == "easy" or d == "none")
    )
    traces = [
        read_trace(write_trace(tmp_path / f"{zone}.csv", zone, hours=24 * 40)) for zone in "XY"
    ]
    return build_scene(profile, traces, {"easy": 0.95, "hard": 0.8}, quality="correct")


def chosen(scene, brief):
    """Return probabilities: `brief` of the requests that the mask selects get "brief"."""
    chance = np.zeros(scene.scores.shape)
    chance[:, 0], chance[:, 1] = ~brief, brief
    return chance


def cells(scene, *chances, **settings):
    repeats = [Repeat(scene, {"m": chance}, {"m": ""}) for chance in chances]
    return quality_cells(repeats, "m", **settings)


def of(found, task, zone):
    (cell,) = [cell for cell in found if (cell.task, cell.zone) == (task, zone)]
    return cell


def test_the_zone_with_the_worst_answers_comes_first(scene):
    # A sixth of the hard requests, all of them in Y, lose everything.
    hard, in_y = scene.rows_of("hard"), scene.zone == 1
    brief = hard & in_y & (np.cumsum(hard & in_y) % 3 == 0)
    found = cells(scene, chosen(scene, brief))
    worst, good = found[0], of(found, "hard", "X")
    assert (worst.task, worst.zone) == ("hard", "Y")
    assert worst.ratio.value == pytest.approx(2 / 3, abs=0.01)
    assert (worst.missed, good.missed) == (True, False)
    assert (good.ratio.value, good.ratio.low) == (1.0, 1.0)
    # Pooled, the floor is kept.
    pooled = scene.scores[hard][:, :1].sum() - brief.sum()
    assert pooled / hard.sum() == pytest.approx(5 / 6, abs=0.01)
    assert sum(cell.requests for cell in found) == len(scene)
    # A loss of a third is sure however many cells one looks at; a bound for all of them is higher.
    assert (worst.missed_for_sure, good.missed_for_sure) == (True, False)
    assert worst.highest > worst.ratio.high


def test_a_month_is_not_hidden_by_the_others(scene):
    february = scene.times >= np.datetime64("2024-02-01").astype("datetime64[s]").astype(float)
    brief = scene.rows_of("hard") & february
    found = cells(scene, chosen(scene, brief), by_month=True)
    assert {(cell.task, cell.month) for cell in found[:2]} == {("hard", "2024-02")}
    assert all(cell.ratio.value == 0 and cell.missed for cell in found[:2])
    assert all(cell.ratio.value == 1 for cell in found[2:])
    assert len(found) == 2 * 2 * 2


@pytest.mark.long
def test_the_interval_holds_the_ratio_of_new_prompts_in_95_of_100_draws(scene):
    rng = np.random.default_rng(0)
    hard = scene.rows_of("hard") & (scene.zone == 0)
    held = 0
    for _ in range(1000):
        brief = hard & (rng.random(len(scene)) < 0.3)
        (cell,) = [
            c for c in cells(scene, chosen(scene, brief)) if (c.task, c.zone) == ("hard", "X")
        ]
        held += cell.ratio.low <= 0.7 <= cell.ratio.high
    assert 920 <= held <= 980


def test_repetitions_are_averaged_and_add_to_the_interval_from_five_on(scene):
    rng = np.random.default_rng(1)
    hard = scene.rows_of("hard")
    shares = [0.1, 0.2, 0.3, 0.4, 0.5]
    chances = [chosen(scene, hard & (rng.random(len(scene)) < share)) for share in shares]
    five, four = (of(cells(scene, *chances[:n]), "hard", "X") for n in (5, 4))
    assert five.ratio.value == pytest.approx(0.7, abs=0.03)
    assert five.ratio.high - five.ratio.low > 1.5 * (four.ratio.high - four.ratio.low)
