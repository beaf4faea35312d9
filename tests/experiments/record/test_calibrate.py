"""`sprout calibrate` fits coefficients that the estimator and the simulator can read."""

import itertools
import json

import numpy as np
import pytest

from envs.energy.coefficients import read_coefficients
from envs.energy.meter import Window
from envs.energy.simulator import simulate
from envs.energy.work import KINDS
from envs.errors import ConfigError, DataError, MeterError
from experiments.bench.gpu.command import floor, savings
from experiments.bench.gpu.runs import LENGTHS, Cell, questions_of
from experiments.cli import main
from experiments.record.calibrate import idle_watts, levels_of
from experiments.record.metering import Question, metered, play
from serving.ledger.estimate import Work, operator_rates
from tests.serving.hooks import config as hook_config
from tests.serving.upstream import Upstream, served


class Steady:
    """A meter with a constant power of 100 W by default."""

    method, source, devices, error_ratio, tick_seconds = "measured", "made", ("made",), 0.0, 0.0

    def __init__(self, watts=100.0):
        self._watts = watts

    def read_joules(self):
        import time

        return self._watts * time.monotonic()


@pytest.mark.long
def test_a_calibrated_server_yields_coefficients_for_estimates_and_simulation(
    llama, tmp_path, capsys
):
    result = tmp_path / "result.json"
    flags = ["--upstream", llama.url, "--model", llama.model, "--out", str(tmp_path / "out")]
    flags += ["--seconds", "1", "--idle-seconds", "1", "--window-seconds", "0.25"]
    assert main(["calibrate", *flags, "--at-once", "4", "--json", str(result)]) == 0
    calibration = json.loads(result.read_text())
    assert [p["at_once"] for p in calibration["phases"]] == [4, 4, 4]
    assert calibration["meter"]["method"] in ("estimated", "measured")
    for phase in calibration["phases"]:
        assert phase["joules_per_token"] > 0
        assert phase["told"] > 0
    fitted = read_coefficients(tmp_path / "out" / "coefficients.json")
    assert dict(zip(KINDS, fitted.joules, strict=True)) == pytest.approx(calibration["joules"])
    assert (tmp_path / "out" / "calibration.png").stat().st_size > 10_000
    # The hook reads the file: in a larger batch, each request has a smaller share of a pass.
    rates = operator_rates(hook_config(tmp_path, coefficients=tmp_path / "out/coefficients.json"))
    together, alone = (rates.estimate(Work(20, 50, requests, "none")) for requests in (8, 1))
    assert together.joules < alone.joules
    # The simulator reads it too.
    lengths = lambda: (20, 30)  # noqa: E731
    simulated = simulate(fitted, lambda _: 4, lengths, 5.0, np.random.default_rng(0))
    assert simulated.joules.sum() > 0


def test_idle_power_is_the_mean_power_without_requests():
    assert idle_watts(Steady(), 0.5, 0.1) == pytest.approx(100, rel=0.1)
    # A meter whose counter does not rise while the server is idle.
    assert idle_watts(Steady(0.0), 0.2, 0.05) == 0.0


def test_metered_windows_cover_all_time_without_gaps():
    with metered(Steady(), 0.05) as windows:
        outer_window = Window(Steady())
        while outer_window._meter.read_joules() - outer_window._joules < 30:
            pass
        reading = outer_window.close()
    metered_joules = sum(w.joules for w in windows)
    assert metered_joules == pytest.approx(reading.joules, rel=0.15)
    for before, after in itertools.pairwise(windows):
        assert after.start == pytest.approx(before.end, abs=1e-6)
    with pytest.raises(MeterError, match="no window"), metered(Steady(0.0), 0.01):
        pass


def test_played_requests_are_observed_as_a_gateway_observes_them():
    questions = iter([Question(5, 7)] * 12)
    with served(Upstream()) as url:
        activities = play(url, "made", 4, lambda: next(questions, None))
    assert len(activities) == 12
    assert len({a.key for a in activities}) == len(activities)
    for activity in activities:
        assert activity.start <= activity.first <= activity.end
        assert (activity.prompt_tokens, activity.completion_tokens) == (3, 4)


@pytest.mark.parametrize("wrong", ["", "0", "1,x", "-4"])
def test_wrong_load_levels_are_refused_with_the_flag_named(wrong):
    with pytest.raises(ConfigError, match="--at-once"):
        levels_of(wrong)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema": 7}, "schema 1"),
        ({"joules": {"prefill": 1}}, "joules"),
        ({"seconds": None}, "seconds"),
        ({"idle_watts": -1}, "idle_watts"),
    ],
)
def test_the_wrong_field_of_a_coefficients_file_is_named_in_the_error(tmp_path, change, problem):
    path = tmp_path / "c.json"
    ones = dict.fromkeys(KINDS, 1.0)
    content = {"schema": 1, "joules": ones, "seconds": ones, "idle_watts": 5.0, "source": "made"}
    path.write_text(json.dumps(content))
    read_coefficients(path)
    path.write_text(json.dumps(content | change))
    with pytest.raises(DataError, match=problem):
        read_coefficients(path)


def cell(directive, at_once, joules):
    zeros = dict.fromkeys(("prompt_tokens", "completion_tokens", "joules", "seconds"), 1)
    return Cell(
        directive, at_once, 10, 0, **zeros, uncertainty_joules=0.0, joules_per_request=joules,
        joules_per_token=1.0, tokens_per_second=1.0, watts=700.0, off=0.0,
    )  # fmt: skip


def test_savings_compare_with_unsteered_requests_at_the_same_load():
    cells = [cell("none", 1, 10.0), cell("brief", 1, 4.0), cell("none", 8, 5.0)]
    cells.append(cell("brief", 8, 4.0))
    assert savings(cells) == {"brief": {"1": pytest.approx(60), "8": pytest.approx(20)}}
    from envs.carbon.hardware import find_hardware

    # Reading 13.5 GB at 3,350 GB/s takes 4 ms; at 700 W a pass costs 2.8 J, shared by its requests.
    floor_joules = floor(cells, 13_500_000_000, find_hardware("h100-sxm"))
    assert floor_joules["1"] == pytest.approx(2.82, rel=0.01)
    assert floor_joules["8"] == pytest.approx(2.82 / 8, rel=0.01)


def test_questions_get_shorter_with_each_briefer_directive():
    questions = questions_of()
    assert set(questions) == set(LENGTHS) == {"none", "brief", "very_brief"}
    mean_tokens = {
        name: np.mean([q.max_tokens for q in questions_of_name])
        for name, questions_of_name in questions.items()
    }
    assert mean_tokens["none"] > 4 * mean_tokens["brief"] > 4 * mean_tokens["very_brief"]


@pytest.mark.long
def test_the_gpu_benchmark_runs_without_a_gpu(tmp_path):
    flags = ["--shapes", "tiny", "--device", "cpu", "--at-once", "1,8", "--seconds", "6"]
    flags += ["--idle-seconds", "1", "--window-seconds", "0.5", "--train-seconds", "8"]
    flags += ["--lanes", "8", "--blocks", "512", "--out", str(tmp_path)]
    assert main(["bench", "gpu", *flags]) == 0
    results = json.loads((tmp_path / "gpu.json").read_text())["shapes"]["tiny"]
    assert all(c["off"] < 1e-6 and c["joules_per_request"] > 0 for c in results["cells"])
    # Processor time has a coarse resolution, yet the split of lone requests is accurate.
    assert results["alone"]["median_error_pct"] < 10
    assert results["savings_pct"]["very_brief"]["1"] > 50
    assert results["train"]["steps"] > 0
    assert results["train"]["rewards_finite"]
    assert (tmp_path / "gpu-tiny.png").stat().st_size > 10_000
