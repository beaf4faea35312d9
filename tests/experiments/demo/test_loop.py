"""The closed loop end to end: live server, profile, training, bundle, hook and client."""

import json
import os
import signal
import subprocess
import sys

import openai
import psutil
import pytest

from agents.policy.bundle import load_bundle
from envs.backends.live import LiveBackend
from envs.carbon.csv_traces import synthetic_day
from envs.energy.meters.choose import choose_meter
from envs.errors import ConfigError, UpstreamError
from envs.outcomes.floors import untagged_name
from envs.outcomes.profile_reader import read_profile
from envs.requests.directive import DEFAULT_CATALOGUE
from envs.requests.workload import generate_requests
from envs.upstream import Upstream
from experiments.bench.loop import judge
from experiments.cli import main
from experiments.hook_process import start_hook
from experiments.record.profile import record
from experiments.tracking import NullRun, tracked
from experiments.train.job import TrainingJob
from tests import made

FLOORS = dict.fromkeys(("arithmetic", "choice", "recall", "sequence"), 0.95)


@pytest.fixture(scope="module")
def upstream(llama):
    with Upstream(llama.url, llama.model) as client:
        yield client


def backend(upstream, requests):
    return LiveBackend(upstream, choose_meter(upstream.url), DEFAULT_CATALOGUE, requests)


@pytest.fixture(scope="module")
def profile_file(upstream, tmp_path_factory):
    path = tmp_path_factory.mktemp("profile") / "profile.parquet"
    record(
        backend(upstream, generate_requests(60, seed=1)), DEFAULT_CATALOGUE, upstream.model, path
    )
    return path


@pytest.fixture(scope="module")
def profile(profile_file):
    return read_profile(profile_file)


@pytest.fixture(scope="module")
def trained(upstream, profile, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    config = made.quick(start_batches=200, replay_steps=20_480, live_steps=256)
    job = TrainingJob(profile, DEFAULT_CATALOGUE, synthetic_day(), FLOORS, config)
    bundle, _ = job.run(folder, NullRun(), upstream)
    return folder, bundle


def test_brevity_saves_tokens_and_costs_correctness_in_sums_but_not_in_recall(profile):
    tokens = profile.outcomes.completion_tokens.mean(axis=0)
    assert tokens[0] > 3 * tokens[1] > 3 * tokens[2]
    assert (profile.outcomes.energy_joules > 0).all()
    assert profile.outcomes.energy_method in ("estimated", "attributed")
    recall = profile.outcomes.correct[profile.rows_of("recall")].mean(axis=0)
    sums = profile.outcomes.correct[profile.rows_of("arithmetic")].mean(axis=0)
    assert recall[2] >= 0.95 * recall[0] > 0.8
    assert sums[2] < 0.9 * sums[0]


@pytest.mark.long
def test_the_trained_policy_saves_joules_and_keeps_quality(upstream, trained, tmp_path):
    _, bundle = trained
    requests = generate_requests(40, seed=2, exclude=bundle.prompt_hashes)
    judged = record(
        backend(upstream, requests), DEFAULT_CATALOGUE, upstream.model, tmp_path / "judged.parquet"
    )
    verdict = judge(judged, bundle, synthetic_day(), FLOORS, seed=0, floors_kept=True)
    assert verdict.joules_to_mix.value < 0.9
    assert min(r.high for r in verdict.quality_by_task.values()) > 0.9


def test_the_manifest_records_how_the_bundle_was_trained(trained):
    folder, bundle = trained
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["model"] == "sprout-llama-2m"
    assert manifest["floors"] == FLOORS
    assert len(manifest["data"]["prompt_hashes"]) == 240
    assert manifest["live"]["requests"] == 256
    assert len(bundle.prompt_hashes) == 240 + 256
    assert {"numpy", "torch"} <= set(manifest["versions"])
    judged = {name for task in FLOORS for name in (task, untagged_name(task))}
    assert set(manifest["validation"]["quality_ratio_by_task"]) == judged
    assert bundle.manifest["energy"]["joules_per_completion_token"] > 0


@pytest.mark.long
def test_a_bundle_continues_training_live_and_reports_the_servers_drift(
    llama, profile_file, trained, tmp_path, capsys
):
    folder, bundle = trained
    command = ["train", "--outcomes", str(profile_file), "--from", str(folder)]
    command += ["--upstream", llama.url, "--seed", "9", "--live-steps", "128"]
    assert main([*command, "--out", str(tmp_path / "next")]) == 0
    assert "figures differ by" in capsys.readouterr().out
    after = load_bundle(tmp_path / "next")
    assert after.manifest["continues"] == bundle.version
    live = after.manifest["live"]
    assert live["requests"] == 128
    assert after.prompt_hashes > bundle.prompt_hashes
    # Server and directive texts are unchanged, so answers are about as long as before.
    tokens = [row for row in live["drift"] if row["measure"] == "completion_tokens"]
    assert tokens
    assert all(0.5 < row["change"] < 2 for row in tokens)


def test_the_openai_client_gets_right_answers_and_sprout_headers_from_the_hook(llama, trained):
    folder, bundle = trained
    flags = ("--clock-start", "2024-01-02T12:00", "--seed", "0")
    with start_hook(llama.url, folder, flags) as gateway:
        client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)
        request = next(r for r in generate_requests(20, seed=5) if r.task == "recall")
        chat_arguments = {
            "model": llama.model,
            "messages": list(request.messages),
            "max_tokens": 100,
        }
        raw = client.chat.completions.with_raw_response.create(
            **chat_arguments, extra_headers={"x-sprout-task": "recall"}
        )
        assert request.reference in raw.parse().choices[0].message.content
        assert raw.headers["x-sprout-directive"] in bundle.catalogue.names
        assert raw.headers["x-sprout-policy-version"] == bundle.version
        stream = client.chat.completions.create(**chat_arguments, stream=True)
        text = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
        assert request.reference in text


def test_an_interrupted_profile_resumes_under_the_same_settings_only(upstream, tmp_path):
    requests = generate_requests(8, seed=4)
    path = tmp_path / "p.parquet"
    partial = tmp_path / "p.parquet.partial"

    class FailsAtFourthCall(LiveBackend):
        calls = 0

        def carry(self, rows, actions):
            FailsAtFourthCall.calls += 1
            if FailsAtFourthCall.calls == 4:
                raise UpstreamError("cut")
            return super().carry(rows, actions)

    interrupted = FailsAtFourthCall(
        upstream, choose_meter(upstream.url), DEFAULT_CATALOGUE, requests
    )
    with pytest.raises(UpstreamError):
        record(interrupted, DEFAULT_CATALOGUE, upstream.model, path, in_flight=8)
    partial_text = partial.read_text()
    assert len(partial_text.splitlines()) == 1 + 16
    # The last line is incomplete, as after a crash.
    partial.write_text(partial_text[:-10])

    with pytest.raises(ConfigError, match="other settings"):
        record(
            backend(upstream, generate_requests(8, seed=44)),
            DEFAULT_CATALOGUE,
            upstream.model,
            path,
        )
    profile = record(backend(upstream, requests), DEFAULT_CATALOGUE, upstream.model, path, 8)
    assert len(profile.requests) == 32
    assert not partial.exists()
    assert read_profile(path).outcomes.completion_tokens.shape == (32, 3)


@pytest.mark.parametrize("mode", ["offline", ""])
def test_a_run_without_an_api_key_is_tracked_offline(tmp_path, monkeypatch, mode):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_SILENT", "true")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    with tracked({"seed": 1}, tmp_path / "tracking", "test") as run:
        run.log({"reward/footprint": -0.5}, step=1)
        run.summarise({"floors_kept": True})
        run.artifact("policy-bundle", "policy", [bundle / "manifest.json"])
    assert list((tmp_path / "tracking" / "wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.long
def test_a_demo_whose_llama_is_killed_ends_with_one_clear_error_and_no_orphans(tmp_path):
    command = [sys.executable, "-m", "experiments.cli", "demo", "--out", str(tmp_path)]
    demo = subprocess.Popen(
        [*command, "--per-task", "200"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "WANDB_MODE": "disabled"},
    )
    assert demo.stdout is not None
    while "2/5" not in demo.stdout.readline():
        assert demo.poll() is None
    children = psutil.Process(demo.pid).children(recursive=True)
    llama = next(c for c in children if "serve" in c.cmdline())
    llama.send_signal(signal.SIGKILL)
    _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 2
    last_line = errors.strip().splitlines()[-1]
    assert last_line.startswith("sprout: the Llama server at http://127.0.0.1")
    assert "ended with -9" in last_line
    assert not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
