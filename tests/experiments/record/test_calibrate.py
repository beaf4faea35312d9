"""A live server's work is priced, and the file is what estimates and the simulator take."""

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
from experiments.record.metering import Question, metered, play, timed
from tests.serving.hooks import hook
from tests.serving.upstream import Upstream, served


class Steady:
    """100 W."""

    method, source, devices, error_ratio, tick_seconds = "measured", "made", ("made",), 0.0, 0.0

    def __init__(self, watts=100.0):
        self._watts = watts

    def read_joules(self):
        import time

        return self._watts * time.monotonic()


def test_a_live_server_is_calibrated(llama, tmp_path, capsys):
    result = tmp_path / "result.json"
    flags = ["--upstream", llama.url, "--model", llama.model, "--out", str(tmp_path / "out")]
    flags += ["--seconds", "2", "--idle-seconds", "1", "--window-seconds", "0.25"]
    assert main(["calibrate", *flags, "--at-once", "8", "--json", str(result)]) == 0
    found = json.loads(result.read_text())
    assert [p["at_once"] for p in found["phases"]] == [8, 8, 8]
    assert found["meter"]["method"] in ("estimated", "measured")
    for phase in found["phases"]:
        assert phase["joules_per_token"] > 0
        assert phase["told"] > 0
    made = read_coefficients(tmp_path / "out" / "coefficients.json")
    assert dict(zip(KINDS, made.joules, strict=True)) == pytest.approx(found["joules"])
    assert (tmp_path / "out" / "calibration.png").stat().st_size > 10_000
    # The estimator takes it: of a crowd, each has a smaller share of a pass.
    rate = hook(tmp_path, coefficients=tmp_path / "out/coefficients.json")._completer._calibrated
    assert rate.cost(20, 50, together=8)[0] < rate.cost(20, 50, together=1)[0]
    # So does the simulator.
    lengths = lambda: (20, 30)  # noqa: E731
    seen = simulate(made, lambda _: 4, lengths, 5.0, np.random.default_rng(0))
    assert seen.joules.sum() > 0


def test_idle_power_is_what_flows_while_nothing_is_asked():
    assert idle_watts(Steady(), 0.5, 0.1) == pytest.approx(100, rel=0.1)
    # A meter that stands still when nothing happens.
    assert idle_watts(Steady(0.0), 0.2, 0.05) == 0.0


def test_metering_covers_all_of_its_time():
    with metered(Steady(), 0.05) as windows:
        window = Window(Steady())
        while window._meter.read_joules() - window._joules < 30:
            pass
        reading = window.close()
    whole = sum(w.joules for w in windows)
    assert whole == pytest.approx(reading.joules, rel=0.15)
    for before, after in itertools.pairwise(windows):
        assert after.start == pytest.approx(before.end, abs=1e-6)
    with pytest.raises(MeterError, match="no window"), metered(Steady(0.0), 0.01):
        pass


def test_load_is_seen_as_a_gateway_sees_it():
    fake = Upstream()
    with served(fake) as url:
        found = play(url, "made", 4, timed(0.3, [Question(5, 7)]))
    assert len(found) > 4
    assert len({a.key for a in found}) == len(found)
    for activity in found:
        assert activity.start <= activity.first <= activity.end
        assert (activity.prompt_tokens, activity.completion_tokens) == (3, 4)


@pytest.mark.parametrize("wrong", ["", "0", "1,x", "-4"])
def test_levels_that_are_none_are_named(wrong):
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
def test_a_damaged_file_of_coefficients_is_named(tmp_path, change, problem):
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


def test_savings_are_against_the_request_left_alone_at_the_same_load():
    cells = [cell("none", 1, 10.0), cell("brief", 1, 4.0), cell("none", 8, 5.0)]
    cells.append(cell("brief", 8, 4.0))
    assert savings(cells) == {"brief": {"1": pytest.approx(60), "8": pytest.approx(20)}}
    from envs.carbon.hardware import find_hardware

    # 13.5 GB at 3,350 GB/s are 4 ms, at 700 W 2.8 J a pass, shared by those in it.
    found = floor(cells, 13_500_000_000, find_hardware("h100-sxm"))
    assert found["1"] == pytest.approx(2.82, rel=0.01)
    assert found["8"] == pytest.approx(2.82 / 8, rel=0.01)


def test_lengths_are_those_of_the_directives():
    asked = questions_of()
    assert set(asked) == set(LENGTHS) == {"none", "brief", "very_brief"}
    mean = {name: np.mean([q.max_tokens for q in qs]) for name, qs in asked.items()}
    assert mean["none"] > 4 * mean["brief"] > 4 * mean["very_brief"]


@pytest.mark.long
def test_the_gpu_benchmark_runs_without_a_gpu(tmp_path):
    flags = ["--shapes", "tiny", "--device", "cpu", "--at-once", "1,8", "--seconds", "6"]
    flags += ["--idle-seconds", "1", "--window-seconds", "0.5", "--train-seconds", "8"]
    flags += ["--lanes", "8", "--blocks", "512", "--out", str(tmp_path)]
    assert main(["bench", "gpu", *flags]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())["shapes"]["tiny"]
    assert all(c["off"] < 1e-6 and c["joules_per_request"] > 0 for c in found["cells"])
    # Processor time is coarse; the split of lone requests is not.
    assert found["alone"]["median_error_pct"] < 10
    assert found["savings_pct"]["very_brief"]["1"] > 50
    assert found["train"]["steps"] > 0
    assert found["train"]["rewards_finite"]
    assert (tmp_path / "gpu-tiny.png").stat().st_size > 10_000
