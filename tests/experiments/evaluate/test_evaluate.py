import json

import numpy as np
import pytest

from envs.carbon.footprint import footprint_grams
from envs.outcomes.profile import write_profile
from envs.outcomes.profile_reader import read_profile
from experiments.cli import main
from tests import made

KINDS = {"easy": "What is item {n}?", "hard": "Explain why {n} is so. Show all steps."}
HOURS = 48


def write_trace(path, zone="X", hours=HOURS, offset="", start="2024-01-01"):
    stamps = np.arange(np.datetime64(f"{start}T00"), np.datetime64(f"{start}T00") + hours)
    values = 200 + 150 * np.sin(np.arange(hours) / 4)
    lines = [f"{s}:00:00{offset},{zone},{v}" for s, v in zip(stamps, values, strict=True)]
    text = "timestamp_utc,zone,carbon_intensity_g_per_kwh\n" + "\n".join(lines) + "\n"
    path.write_text(text)
    return path


@pytest.fixture
def files(tmp_path):
    """Paths of a profile and of two traces.

    Short answers are all right in the profile's easy task and all wrong in its hard task.
    """
    outcomes = tmp_path / "outcomes.parquet"
    rng = np.random.default_rng(0)
    rows = made.rows(
        made.chats(40, KINDS),
        lambda r, d: float(r.task == "easy" or d == "none"),
    )
    for row in rows:
        row["energy_joules"] *= float(rng.uniform(0.5, 1.5))
    write_profile(outcomes, rows)
    return outcomes, write_trace(tmp_path / "x.csv"), write_trace(tmp_path / "y.csv", "Y")


def evaluate(tmp_path, outcomes, *arguments, methods="base,co2_opt,per_task_lp"):
    result = tmp_path / "result.json"
    command = ["evaluate", "--outcomes", str(outcomes), "--methods", methods]
    command += ["--json", str(result), "--out", str(tmp_path / "out"), "--resamples", "200"]
    code = main([*command, *map(str, arguments)])
    return code, json.loads(result.read_text()) if code == 0 else None


def test_a_fixed_directive_gets_the_closed_form_figures_of_the_profile(tmp_path, files):
    outcomes, *traces = files
    # One zone of constant intensity, so the closed form does not depend on the order of requests.
    constant_trace = tmp_path / "flat.csv"
    lines = traces[0].read_text().splitlines()
    constant_trace.write_text(
        "\n".join([lines[0], *(",".join([*line.split(",")[:2], "250"]) for line in lines[1:])])
    )
    _, result = evaluate(tmp_path, outcomes, "--intensity", constant_trace)
    profile = read_profile(outcomes)
    grams = footprint_grams(
        profile.outcomes.energy_joules, profile.outcomes.device_seconds, 250.0
    ).mean(axis=0)
    methods = result["methods"]
    assert methods["base"]["grams_per_request"] == pytest.approx(grams[0], rel=1e-9)
    assert methods["co2_opt"]["grams_per_request"] == pytest.approx(grams[2], rel=1e-9)
    assert methods["co2_opt"]["carbon_saving_pct"] == pytest.approx(
        100 * (1 - grams[2] / grams[0]), rel=1e-9
    )
    assert methods["co2_opt"]["mean_completion_tokens"] == 2
    assert methods["co2_opt"]["quality"]["correct"]["ratio"] == pytest.approx(0.5, abs=1e-9)
    by_task = methods["co2_opt"]["quality"]["correct"]["by_task"]
    assert by_task == {
        "easy": {"ratio": 1.0, "ci95": [1.0, 1.0], "n": 40},
        "hard": {"ratio": 0.0, "ci95": [0.0, 0.0], "n": 40},
    }


def test_the_result_has_all_documented_fields_and_files(tmp_path, files):
    outcomes, x, y = files
    code, result = evaluate(tmp_path, outcomes, "--intensity", x, y)
    assert code == 0
    assert result["schema"] == 1
    assert set(result["zones"]) == {"X", "Y"}
    assert sum(zone["requests"] for zone in result["zones"].values()) == 80
    for figures in result["methods"].values():
        assert set(figures) >= {
            *("carbon_saving_pct", "carbon_saving_ci95", "excess_over_per_task_lp_pct"),
            *("excess_ci95", "grams_per_request", "mean_completion_tokens"),
            *("mean_latency_seconds", "directive_share", "quality"),
        }
        low, high = figures["carbon_saving_ci95"]
        assert low <= figures["carbon_saving_pct"] <= high
        assert sum(figures["directive_share"].values()) == pytest.approx(1)
        assert set(figures["quality"]) == {"correct"}
    best = result["methods"]["per_task_lp"]
    assert best["excess_over_per_task_lp_pct"] == pytest.approx(0, abs=1e-6)
    assert best["quality"]["correct"]["by_task"]["hard"]["ratio"] == pytest.approx(0.95)
    assert result["methods"]["base"]["excess_over_per_task_lp_pct"] < -30
    savings = {zone["methods"]["co2_opt"]["carbon_saving_pct"] for zone in result["zones"].values()}
    assert len(savings) == 2
    for name in ("frontier.png", "quality-by-task.png", "day.png", "config.yaml"):
        assert (tmp_path / "out" / name).stat().st_size > 100


def test_policies_are_evaluated_like_methods_with_a_warning_about_their_training_prompts(
    tmp_path, files, capsys
):
    outcomes, x, _ = files
    folder = tmp_path / "mine"
    made.bundle(folder, (0.0, 0.0, 50.0), model="other", tasks=("easy", "hard"))
    manifest = json.loads((folder / "manifest.json").read_text())
    hashes = [request.prompt_hash for request in read_profile(outcomes).requests]
    manifest["data"] = {"prompt_hashes": hashes[:7]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    code, result = evaluate(
        *(tmp_path, outcomes, "--intensity", x, "--no-task-tags"),
        *("--policy", folder, f"again={folder}"),
    )
    assert code == 0
    assert set(result["methods"]) == {"base", "co2_opt", "per_task_lp", "mine", "again"}
    fixed_saving = result["methods"]["co2_opt"]["carbon_saving_pct"]
    assert result["methods"]["mine"]["carbon_saving_pct"] == pytest.approx(fixed_saving)
    assert result["methods"]["mine"]["knows"] == "trained"
    output = " ".join(capsys.readouterr().out.split())
    assert "7 of 80 evaluated prompts were training prompts of policy mine" in output
    assert "trained for other" in output
    assert len(result["warnings"]) == 4
    _, unseen_result = evaluate(
        tmp_path, outcomes, "--intensity", x, "--policy", folder, "--unseen"
    )
    assert unseen_result["requests"] == 73
    assert not any("training prompts" in warning for warning in unseen_result["warnings"])


def test_tasks_without_the_quality_are_left_out_with_a_warning(tmp_path, files):
    outcomes, x, _ = files
    rows = made.rows(made.chats(10, KINDS), lambda r, d: 1.0 if r.task == "easy" else None)
    write_profile(outcomes, rows)
    _, result = evaluate(tmp_path, outcomes, "--intensity", x)
    assert result["requests"] == 10
    assert list(result["floors"]) == ["easy"]
    assert "all of hard" in result["warnings"][0]


def test_a_mix_weights_the_tasks(tmp_path, files):
    outcomes, x, _ = files
    mix = tmp_path / "mix.csv"
    mix.write_text("hour,easy,hard\n0,0.9,0.1\n")
    _, unmixed = evaluate(tmp_path, outcomes, "--intensity", x)
    _, mixed = evaluate(tmp_path, outcomes, "--intensity", x, "--mix", mix)
    _, uniform = evaluate(tmp_path, outcomes, "--intensity", x, "--mix", "uniform")
    assert mixed["mix"] == str(mix)
    ratios = [
        r["methods"]["co2_opt"]["quality"]["correct"]["ratio"] for r in (unmixed, mixed, uniform)
    ]
    assert ratios == pytest.approx([0.5, 0.9, 0.5])


def test_the_share_of_a_left_out_task_goes_to_the_other_tasks(tmp_path, files):
    outcomes, x, _ = files
    kinds = KINDS | {"unjudged": "Muse on {n}."}
    rows = made.rows(
        made.chats(20, kinds),
        lambda r, d: None if r.task == "unjudged" else float(r.task == "easy" or d == "none"),
    )
    write_profile(outcomes, rows)
    mix = "easy=0.3,hard=0.1,unjudged=0.6"
    _, result = evaluate(tmp_path, outcomes, "--intensity", x, "--mix", mix)
    assert result["methods"]["co2_opt"]["quality"]["correct"]["ratio"] == pytest.approx(0.75)
    assert "60% of the mix belongs to tasks that are left out" in result["warnings"][1]
    assert result["task_share"] == pytest.approx({"easy": 0.75, "hard": 0.25})


def test_requests_of_a_task_with_a_share_of_zero_are_left_out(tmp_path, files):
    outcomes, x, _ = files
    alternating = tmp_path / "mix.csv"
    alternating.write_text("hour,easy,hard\n0,1,0\n1,0,1\n")
    _, result = evaluate(tmp_path, outcomes, "--intensity", x, "--mix", alternating)
    assert 0 < result["requests"] < 80
    assert "the mix has 2 hours and is repeated over 48" in result["warnings"][0]
    assert "the mix has a share of 0" in result["warnings"][1]
    _, easy_only = evaluate(tmp_path, outcomes, "--intensity", x, "--mix", "easy=1,hard=0")
    assert list(easy_only["floors"]) == ["easy"]


@pytest.mark.long
def test_random_mixes_depend_on_their_seed_only(tmp_path, files):
    outcomes, x, _ = files
    jobs = tmp_path / "jobs.csv"
    jobs.write_text("job_name\n" + "\n".join(str(n * n) for n in range(1, 60)))
    results = [
        evaluate(tmp_path, outcomes, "--intensity", x, "--mix", f"jobs:{jobs}:{seed}")[1]
        for seed in (1, 1, 2)
    ]
    ratios = [r["methods"]["co2_opt"]["quality"]["correct"]["ratio"] for r in results]
    assert ratios[0] == ratios[1] != ratios[2]


def test_with_floors_by_task_the_worst_task_is_the_farthest_below_its_own_floor(
    tmp_path, files, capsys
):
    outcomes, x, _ = files
    rows = made.rows(
        made.chats(40, KINDS),
        lambda r, d: 1.0 if d == "none" else (0.5 if r.task == "easy" else 0.8),
    )
    write_profile(outcomes, rows)
    floors = tmp_path / "floors.yaml"
    floors.write_text("easy: 0.4\nhard: 0.95\n")
    code, _ = evaluate(tmp_path, outcomes, "--intensity", x, "--floor", floors, methods="co2_opt")
    assert code == 0
    assert "hard 0.80" in capsys.readouterr().out
    floors.write_text("easy: 0.4\nhard: 0.95\nhrad: 0.9\n")
    assert evaluate(tmp_path, outcomes, "--intensity", x, "--floor", floors)[0] == 2
    assert "no task 'hrad'" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--out", "--json"])
def test_an_output_path_that_cannot_be_written_is_refused_before_the_evaluation(
    tmp_path, files, capsys, flag
):
    outcomes, x, _ = files
    in_the_way = tmp_path / "in-the-way"
    in_the_way.write_text("") if flag == "--out" else in_the_way.mkdir()
    assert evaluate(tmp_path, outcomes, "--intensity", x, flag, in_the_way)[0] == 2
    captured = capsys.readouterr()
    assert str(in_the_way) in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--hours", "5"], "also give its first hour with --start"),
        (["--unseen"], "give a --policy"),
        (["--mix", "balanced"], "give a CSV, or file, uniform"),
        (["--mix", "easy=1,hrad=1"], "--mix easy=1,hrad=1: task 'hrad' has no requests"),
        (["--mix", "easy=x"], "give TASK=SHARE"),
        (["--mix", "jobs:nowhere.csv:x"], "give jobs:FILE:SEED"),
        (["--policy", "=x"], "give FOLDER or NAME=FOLDER"),
        (["--zone", "Q"], "no zone 'Q'"),
        (["--start", "40", "--hours", "10"], "hours 40 to 50 asked for, but the trace has 48"),
        (["--methods", "per_task"], "no method 'per_task'"),
        (["--floor", "1.2"], "give a ratio from 0 to 1"),
        (["--quality", "preference"], "0 requests of the profile have a known"),
        (["--policy", "nowhere"], "nowhere is no policy bundle"),
        (["--mix", "nowhere.csv"], "--mix nowhere.csv: no such file"),
        (["--outcomes", "nowhere.parquet"], "nowhere.parquet: no such file"),
        (["--model", "large"], "no model 'large'"),
    ],
)
def test_a_wrong_argument_is_named_in_the_error(tmp_path, files, capsys, arguments, fragment):
    outcomes, x, _ = files
    assert evaluate(tmp_path, outcomes, "--intensity", x, *arguments)[0] == 2
    assert fragment in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keep", "fragment"),
    [
        (
            lambda row: row["directive"] == "none",
            "has only the directive 'none'; give outcomes under two or more",
        ),
        (lambda row: row["request_id"] == "easy-0", "1 requests of the profile have a known"),
        (lambda row: row["task"] == "worthless", "no request has any quality 'correct' under L0"),
    ],
)
def test_outcomes_with_nothing_to_compare_are_refused_with_the_reason(
    tmp_path, files, capsys, keep, fragment
):
    outcomes, x, _ = files
    kinds = KINDS | {"worthless": "Guess {n}."}
    rows = made.rows(made.chats(5, kinds), lambda r, d: float(r.task != "worthless"))
    write_profile(outcomes, [row for row in rows if keep(row)])
    assert evaluate(tmp_path, outcomes, "--intensity", x)[0] == 2
    assert fragment in capsys.readouterr().err


def test_a_task_whose_l0_answers_are_all_wrong_has_no_ratio(tmp_path, files):
    outcomes, x, _ = files
    kinds = KINDS | {"worthless": "Guess {n}."}
    rows = made.rows(made.chats(5, kinds), lambda r, d: float(r.task != "worthless"))
    write_profile(outcomes, rows)
    _, result = evaluate(tmp_path, outcomes, "--intensity", x)
    figures = result["methods"]["per_task_lp"]
    assert set(figures["quality"]["correct"]["by_task"]) == {"easy", "hard"}
    assert figures["carbon_saving_pct"] > 90


def test_a_trace_in_local_time_is_refused(tmp_path, files, capsys):
    outcomes, *_ = files
    local = write_trace(tmp_path / "local.csv", offset="+01:00")
    assert evaluate(tmp_path, outcomes, "--intensity", local)[0] == 2
    assert "row 2 timestamp_utc '2024-01-01T00:00:00+01:00' is not UTC" in capsys.readouterr().err
    # Local time without an offset is recognised by the hour that is missing when clocks change.
    lines = write_trace(tmp_path / "spring.csv", start="2024-03-31").read_text().splitlines()
    (tmp_path / "spring.csv").write_text("\n".join(lines[:3] + lines[4:]))
    assert evaluate(tmp_path, outcomes, "--intensity", tmp_path / "spring.csv")[0] == 2
    error = capsys.readouterr().err
    assert "hour 2024-03-31T02:00Z is missing" in error
    assert "local time" in error


def test_a_trace_without_hours_is_named_in_the_error(tmp_path, files, capsys):
    outcomes, x, _ = files
    x.write_text(x.read_text().splitlines()[0] + "\n")
    assert evaluate(tmp_path, outcomes, "--intensity", x)[0] == 2
    assert f"{x}: holds no hours" in capsys.readouterr().err


def test_a_truncated_profile_is_named_in_the_error(tmp_path, files, capsys):
    outcomes, x, _ = files
    outcomes.write_bytes(outcomes.read_bytes()[:-200])
    assert evaluate(tmp_path, outcomes, "--intensity", x)[0] == 2
    assert f"{outcomes}: not a readable Parquet file" in capsys.readouterr().err


def test_the_published_outcomes_give_the_known_saving(tmp_path, shared_data):
    outcomes = shared_data / "llama2_outcomes.parquet"
    traces = shared_data / "carbon_intensity"
    _, result = evaluate(tmp_path, outcomes, "--intensity", traces, "--quality", "preference")
    assert len(result["zones"]) == 5
    methods = result["methods"]
    # Known for this data: one linear program per task saves 53.9% in hindsight.
    assert methods["per_task_lp"]["carbon_saving_pct"] == pytest.approx(53.9, abs=0.6)
    assert set(methods["base"]["quality"]) == {"correct", "preference"}
    assert "alpaca" not in methods["base"]["quality"]["correct"]["by_task"]
