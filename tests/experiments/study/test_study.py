import json
import os
import signal
import subprocess
import threading
import time

import pytest

from agents.policy.bundle import load_bundle
from envs.errors import ConfigError
from envs.outcomes.profile_reader import read_profile
from envs.requests.directive import DEFAULT_CATALOGUE
from experiments.cli import main
from experiments.study import pool
from experiments.study.job import (
    RESULT,
    Data,
    Job,
    folds_of,
    from_json,
    is_done,
    to_json,
    training_profile,
)
from tests import made
from tests.experiments.evaluate.test_evaluate import write_trace

KINDS = {"lookup": "What is item {n}?", "proof": "Explain why {n} is so. Show all steps."}


@pytest.fixture
def data(tmp_path):
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


def jobs(count, steps=4096):
    return [Job("v", seed, seed % 2, {"replay_steps": steps}) for seed in range(count)]


def test_a_job_never_trains_on_its_fold(data):
    whole = read_profile(data.outcomes)
    folds = folds_of(whole, data.folds)
    for fold in range(data.folds):
        trained = training_profile(data, Job("v", 0, fold))
        left = {r.prompt_hash for r in trained.requests}
        held = {r.prompt_hash for r in whole.select(folds == fold).requests}
        assert held
        assert left.isdisjoint(held)
        assert len(left) + len(held) == len(whole.requests)


def test_a_job_survives_its_json(data):
    job = Job("v", 3, 1, {"hidden": 8}, ("none", "brief"), 0.5)
    assert from_json(json.loads(json.dumps(to_json(data, job)))) == (data, job)


def test_the_same_seed_gives_the_same_bundle_to_the_bit(data, tmp_path):
    # In processes of their own: the order of sets of words differs between them.
    for place in ("a", "b"):
        pool.train_all(data, jobs(1), tmp_path / place, workers=1)
    a, b = (tmp_path / place / "v/seed-0/fold-0" for place in ("a", "b"))
    for name in ("manifest.json", "policy.safetensors", "vocabulary.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes()


def test_killing_a_worker_loses_no_finished_run_and_its_own_is_tried_again(data, tmp_path):
    out = tmp_path / "out"
    pool.train_all(data, jobs(1), out, workers=1)
    finished = (out / "v/seed-0/fold-0/result.json").stat().st_mtime_ns
    killed = threading.Event()

    def kill():
        # The second job's process is the one whose folder it was started with.
        while not killed.is_set():
            found = subprocess.run(
                ["pgrep", "-f", f"study.worker {out}/v/seed-1"], capture_output=True, text=True
            ).stdout.split()
            if found:
                os.kill(int(found[0]), signal.SIGKILL)
                killed.set()
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    pool.train_all(data, jobs(2), out, workers=2)
    killer.join()
    assert all(is_done(out / job.name, job) for job in jobs(2))
    assert (out / "v/seed-0/fold-0/result.json").stat().st_mtime_ns == finished


def test_a_refused_job_is_named_and_the_others_are_kept(data, tmp_path):
    bad = Job("bad", 0, 0, {"replay_steps": 4096}, train_share=0.001)
    with pytest.raises(
        ConfigError,
        match=r"1 of 2 trainings failed, first bad/seed-0/fold-0: .*no prompts are left",
    ):
        pool.train_all(data, [*jobs(1), bad], tmp_path / "out", workers=1)
    assert is_done(tmp_path / "out" / jobs(1)[0].name, jobs(1)[0])


def test_another_job_in_the_same_place_is_trained_anew(data, tmp_path):
    pool.train_all(data, jobs(1), tmp_path / "out", workers=1)
    (other,) = jobs(1, steps=8192)
    assert not is_done(tmp_path / "out" / other.name, other)


def test_a_job_of_other_defaults_is_trained_anew(data, tmp_path):
    (job,) = jobs(1)
    pool.train_all(data, [job], tmp_path, workers=1)
    assert is_done(tmp_path / job.name, job)
    path = tmp_path / job.name / RESULT
    finished = json.loads(path.read_text())
    finished["settings"]["lanes"] += 1
    path.write_text(json.dumps(finished))
    assert not is_done(tmp_path / job.name, job)


def test_cross_validation_judges_every_prompt_by_a_policy_that_never_saw_it(data, tmp_path, capsys):
    command = ["crossvalidate", "--outcomes", str(data.outcomes)]
    command += ["--intensity", str(data.intensity[0]), "--folds", "2", "--seeds", "2"]
    command += ["--replay-steps", "60000", "--resamples", "100", "--out", str(tmp_path / "cv")]
    command += ["--methods", "per_task_lp,base", "--json", str(tmp_path / "cv.json")]
    assert main(command) == 0
    result = json.loads((tmp_path / "cv.json").read_text())["mixes"]["file"]
    assert result["requests"] == 80
    policy = result["methods"]["policy"]
    # Kinds are alike within, so that nothing beats the best mix of each; half can be saved.
    assert policy["carbon_saving_pct"] > 40
    assert abs(policy["excess_over_per_task_lp_pct"]) < 1
    assert policy["quality"]["correct"]["by_task"]["proof"]["ratio"] > 0.9
    low, high = policy["carbon_saving_ci95"]
    assert low <= policy["carbon_saving_pct"] <= high
    assert result["methods"]["base"]["carbon_saving_pct"] == 0
    # One window: its saving is the whole one, but for the mean over seeds of a ratio.
    (cell,) = result["cells"]
    assert cell["zone"] == "X"
    saved = cell["saving_pct"]
    assert saved["policy"] == pytest.approx(policy["carbon_saving_pct"], abs=1e-6)
    assert saved["base"] == 0
    assert "| X | 0 |" in (tmp_path / "cv/results.md").read_text()
    assert main([*command, "--explored", "0.5"]) == 0
    half = json.loads((tmp_path / "cv.json").read_text())["mixes"]["file"]
    judges, _ = read_profile(data.outcomes).split(0.5, "exploration")
    assert half["requests"] == len(judges.requests)
    hashes = load_bundle(tmp_path / "cv/policy/seed-1/fold-0").prompt_hashes
    whole = read_profile(data.outcomes)
    assert len(hashes) == int((folds_of(whole, 2) != 0).sum())
