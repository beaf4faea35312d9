import json
import os
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import fields, replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from agents.policy.bundle import load_bundle
from agents.training.config import PpoConfig
from envs.errors import ConfigError
from envs.outcomes.profile import write_profile
from envs.outcomes.profile_reader import read_profile
from envs.requests.directive import DEFAULT_CATALOGUE
from experiments.cli import main
from experiments.study import job as job_module
from experiments.study import pool
from experiments.study.ablate import SHIPPED, read_question
from experiments.study.data import Data, folds_of
from experiments.study.job import (
    RESULT,
    Job,
    digest_of,
    folder_of,
    from_json,
    is_done,
    to_json,
    training_profile,
)
from tests import made
from tests.experiments.evaluate.test_evaluate import write_trace

KINDS = {"lookup": "What is item {n}?", "proof": "Explain why {n} is so. Show all steps."}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("data")
    made.profile(
        tmp_path, made.chats(40, KINDS), lambda r, d: float(r.task == "lookup" or d == "none")
    )
    write_trace(tmp_path / "trace.csv")
    return Data(
        tmp_path / "profile.parquet",
        (tmp_path / "trace.csv",),
        None,
        None,
        tuple(DEFAULT_CATALOGUE.to_rows()),
        dict.fromkeys(KINDS, 0.95),
        "correct",
        folds=2,
        group="test",
    )


@pytest.fixture(autouse=True)
def untracked(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """Folder of one finished job; tests only read it."""
    out = tmp_path_factory.mktemp("finished")
    pool.train_all(data, jobs(1), out, workers=1)
    return out


def jobs(count, steps=4096):
    return [
        Job("v", seed, seed % 2, {"start_batches": 5, "replay_steps": steps})
        for seed in range(count)
    ]


def test_a_job_never_trains_on_the_prompts_of_its_fold(data):
    profile = read_profile(data.outcomes)
    folds = folds_of(profile, data.folds)
    for fold in range(data.folds):
        trained = training_profile(data, Job("v", 0, fold))
        trained_hashes = {r.prompt_hash for r in trained.requests}
        held_out_hashes = {r.prompt_hash for r in profile.select(folds == fold).requests}
        assert held_out_hashes
        assert trained_hashes.isdisjoint(held_out_hashes)
        assert len(trained_hashes) + len(held_out_hashes) == len(profile.requests)


def test_a_job_is_read_back_from_its_json_unchanged(data):
    job = Job("v", 3, 1, {"hidden": 8}, ("none", "brief"), 0.5)
    assert from_json(json.loads(json.dumps(to_json(data, job)))) == (data, job)


def test_the_same_seed_gives_the_same_bundle_to_the_bit(data, finished, tmp_path):
    # Each training runs in its own process, because the order of sets of words differs between
    # processes.
    pool.train_all(data, jobs(1), tmp_path, workers=1)
    a, b = (folder / folder_of(data, jobs(1)[0]) for folder in (finished, tmp_path))
    for name in ("manifest.json", "policy.safetensors", "vocabulary.json", "front.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes()


@pytest.mark.long
def test_the_run_of_a_killed_worker_is_tried_again_and_finished_runs_are_kept(
    data, finished, tmp_path
):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    result = out / folder_of(data, jobs(1)[0]) / RESULT
    finished_at = result.stat().st_mtime_ns
    killed = threading.Event()

    def kill():
        # The second job's process is recognised by the folder in its command line.
        while not killed.is_set():
            worker_pids = subprocess.run(
                ["pgrep", "-f", f"study.worker {out}/v/seed-1"], capture_output=True, text=True
            ).stdout.split()
            if worker_pids:
                os.kill(int(worker_pids[0]), signal.SIGKILL)
                killed.set()
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    pool.train_all(data, jobs(2), out, workers=2)
    killer.join()
    assert all(is_done(out, data, job) for job in jobs(2))
    assert result.stat().st_mtime_ns == finished_at


@pytest.mark.long
def test_a_refused_job_is_named_in_the_error_and_the_other_jobs_are_finished(data, tmp_path):
    refused_job = Job("bad", 0, 0, {"start_batches": 5, "replay_steps": 4096}, train_share=0.001)
    with pytest.raises(
        ConfigError,
        match=r"1 of 2 trainings failed, first bad/seed-0/fold-0: .*no prompts are left",
    ):
        pool.train_all(data, [*jobs(1), refused_job], tmp_path / "out", workers=1)
    assert is_done(tmp_path / "out", data, jobs(1)[0])


def with_file(data, name, change):
    """Return the data with a changed copy of one of its files."""
    path = getattr(data, name)
    path = path if name == "outcomes" else path[0]
    copy = path.with_name(f"changed-{path.name}")
    change(path, copy)
    return replace(data, **{name: copy if name == "outcomes" else (copy,)})


def other_answers(path, copy):
    rows = pq.read_table(path).to_pylist()
    rows[0]["completion_tokens"] += 1
    write_profile(copy, rows)


def dirtier(path, copy):
    copy.write_text(path.read_text().replace(",200.0\n", ",201.0\n", 1))


OTHER_DATA = {
    "outcomes": lambda data: with_file(data, "outcomes", other_answers),
    "intensity": lambda data: with_file(data, "intensity", dirtier),
    "model": lambda data: replace(data, model="made"),
    "catalogue": lambda data: replace(data, catalogue=data.catalogue[:2]),
    "floors": lambda data: replace(data, floors=data.floors | {"proof": 0.9}),
    "quality": lambda data: replace(data, quality="preference"),
    "folds": lambda data: replace(data, folds=3),
    "hold_out_hours": lambda data: replace(data, hold_out_hours=0.5),
}
OTHER_JOB = {
    "seed": {"seed": 2},
    "fold": {"fold": 1},
    "settings": {"config": {"start_batches": 5, "replay_steps": 8192}},
    "directives": {"directives": ("none", "brief")},
    "train_share": {"train_share": 0.5},
    "live": {"live": True},
}


def test_every_input_of_a_training_is_tried(data):
    names = {field.name for field in fields(Data)} - {"group", "zone", "hold_out_zones"}
    assert OTHER_DATA.keys() == names
    assert {field.name for field in fields(Job)} - {"variant"} == {
        "config" if name == "settings" else name for name in OTHER_JOB
    }


@pytest.mark.parametrize("name", OTHER_DATA)
def test_a_training_on_other_data_is_another_training(data, finished, name):
    (job,) = jobs(1)
    assert is_done(finished, data, job)
    other = OTHER_DATA[name](data)
    assert not is_done(finished, other, job)
    assert folder_of(other, job) != folder_of(data, job)


def test_a_training_on_another_zone_is_another_training(data, finished, tmp_path):
    two = tmp_path / "two.csv"
    rows = data.intensity[0].read_text()
    two.write_text(rows + "".join(rows.partition("\n")[2].replace(",X,", ",Y,")))
    (job,) = jobs(1)
    of_zone = {zone: replace(data, intensity=(two,), zone=zone) for zone in ("X", "Y", None)}
    # The same hours of the same zone are the same training, whatever the file is called.
    assert is_done(finished, of_zone["X"], job)
    assert not is_done(finished, of_zone["Y"], job)
    assert not is_done(finished, of_zone[None], job)
    assert is_done(finished, replace(of_zone[None], hold_out_zones=("Y",)), job)
    assert not is_done(finished, replace(of_zone[None], hold_out_zones=("X",)), job)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_held_out_hours_and_zones_are_judged_and_never_trained_on(data, tmp_path, share):
    two = tmp_path / "two.csv"
    write_trace(two, hours=24 * 10)
    rows = two.read_text()
    two.write_text(rows + "".join(rows.partition("\n")[2].replace(",X,", ",Y,")))
    hours = replace(data, intensity=(two,), zone="X", hold_out_hours=share)
    trained, (judged,) = hours.trace(), hours.judged_traces()
    assert trained.end == judged.start
    assert (trained.hours, judged.hours) == (240 - 240 * share, 240 * share)
    assert np.concatenate([trained.g_per_kwh, judged.g_per_kwh]).size == 240
    zones = replace(hours, zone=None, hold_out_zones=("Y",))
    assert (zones.trace().zone, zones.trace().end) == ("X", trained.end)
    assert [(trace.zone, trace.start) for trace in zones.judged_traces()] == [("Y", judged.start)]
    for wrong, message in ((("Z",), "no zone 'Z'"), (("X", "Y"), "leave no hours to train on")):
        with pytest.raises(ConfigError, match=message):
            replace(zones, hold_out_zones=wrong).trace()


def test_a_page_says_what_was_held_out(data):
    assert "prompts that were held out" in data.held_out
    assert "its hours and zones are trained on" in data.held_out
    both = replace(data, hold_out_hours=0.25, hold_out_zones=("NL",))
    assert both.held_out == (
        "prompts and hours (the last 25 % of the days) and zones (NL) that were held out from "
        "training"
    )


@pytest.mark.parametrize("name", OTHER_JOB)
def test_another_job_is_another_training(data, finished, name):
    (job,) = jobs(1)
    other = replace(job, **OTHER_JOB[name])
    assert digest_of(data, other) != digest_of(data, job)
    assert not is_done(finished, data, other)


def test_a_training_of_other_code_is_another_training(data, finished, monkeypatch):
    (job,) = jobs(1)
    for name in ("TRAINING_SCHEMA", "SCHEMA_VERSION"):
        with monkeypatch.context() as patched:
            patched.setattr(job_module, name, 99)
            assert not is_done(finished, data, job)
    # New defaults of the hyperparameters.
    monkeypatch.setattr(Job, "ppo", lambda self: PpoConfig(replay_steps=4096, seed=0, lanes=99))
    assert not is_done(finished, data, job)


def test_inputs_that_change_while_a_job_trains_are_named(data, tmp_path, monkeypatch):
    copy = tmp_path / "copy.parquet"
    shutil.copy(data.outcomes, copy)
    changing = replace(data, outcomes=copy)
    assert changing.digests

    def trained(data, job, folder):
        folder.mkdir(parents=True)
        other_answers(copy, copy)
        (folder / RESULT).write_text(json.dumps({"digest": digest_of(replace(data), job)}))

    monkeypatch.setattr(pool, "_train_one", trained)
    with pytest.raises(ConfigError, match="its input files changed while it trained"):
        pool.train_all(changing, jobs(1), tmp_path / "out", workers=1)


def cross_validated(data, tmp_path, *flags):
    """Run `sprout crossvalidate` on two folds and return its results for the file's mix."""
    command = ["crossvalidate", "--outcomes", str(data.outcomes), "--folds", "2"]
    command += ["--intensity", str(data.intensity[0]), "--resamples", "100"]
    command += ["--methods", "per_task_lp,base", "--out", str(tmp_path / "cv")]
    assert main([*command, *flags, "--json", str(tmp_path / "cv.json")]) == 0
    return json.loads((tmp_path / "cv.json").read_text())["mixes"]["file"]


@pytest.mark.long
def test_cross_validation_evaluates_each_prompt_with_policies_that_were_not_trained_on_it(
    data, tmp_path
):
    flags = ("--seeds", "1", "--start-batches", "200", "--replay-steps", "8192")
    result = cross_validated(data, tmp_path, *flags)
    assert result["requests"] == 80
    policy = result["methods"]["policy"]
    # Prompts of a task are alike, so no policy beats the best mix per task; half can be saved.
    assert policy["carbon_saving_pct"] > 40
    assert abs(policy["excess_over_per_task_lp_pct"]) < 1
    assert policy["quality"]["correct"]["by_task"]["proof"]["ratio"] > 0.9
    low, high = policy["carbon_saving_ci95"]
    assert low <= policy["carbon_saving_pct"] <= high
    assert result["methods"]["base"]["carbon_saving_pct"] == 0
    # With one window, its saving is the total saving.
    (cell,) = result["cells"]
    assert cell["zone"] == "X"
    savings = cell["saving_pct"]
    assert savings["policy"] == pytest.approx(policy["carbon_saving_pct"], abs=1e-6)
    assert savings["base"] == 0
    # The stages of the training, and what PPO adds to each, paired.
    for stage in ("supervised", "policy_gradient"):
        assert result["methods"][stage]["carbon_saving_pct"] > 40
        difference = result["policy_less"][stage]["saving"]
        expected = savings["policy"] - savings[stage]
        assert difference["value"] == pytest.approx(expected, abs=1e-6)
        low, high = difference["ci95"]
        assert low <= difference["value"] <= high
    assert "| policy less | excess, points |" in (tmp_path / "cv/results.md").read_text()
    assert "| X | 0 |" in (tmp_path / "cv/results.md").read_text()


@pytest.mark.long
def test_cross_validation_of_an_explored_share_trains_on_the_other_prompts_too(data, tmp_path):
    flags = ("--seeds", "2", "--start-batches", "5", "--replay-steps", "4096")
    flags += ("--explored", "0.5", "--no-gradient")
    profile = read_profile(data.outcomes)
    judged, _ = profile.split(0.5, "exploration")
    assert cross_validated(data, tmp_path, *flags)["requests"] == len(judged.requests)
    hashes = load_bundle(next((tmp_path / "cv/policy/seed-1/fold-0").iterdir())).prompt_hashes
    assert len(hashes) == int((folds_of(profile, 2) != 0).sum())


def test_no_shipped_ablation_shows_the_forecast_by_accident():
    shown = set()
    for file in sorted(SHIPPED.glob("*.yaml")):
        for name, variant in read_question(file).variants.items():
            hidden = PpoConfig(**{"without": PpoConfig().without, **variant.ppo}).without
            if not {"forecast", "carbon"} & set(hidden):
                shown.add((file.stem, name))
    assert {file for file, _ in shown} == {"forecast"}
