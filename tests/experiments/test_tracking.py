"""Tracked commands; the files of offline runs are read back the way `wandb sync` reads them."""

import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from wandb.proto.wandb_internal_pb2 import Record

import experiments
from experiments.cli import main
from tests import made
from tests.experiments.evaluate.test_evaluate import write_trace

KINDS = {"lookup": "What is item {n}?", "proof": "Explain why {n} is so. Show all steps."}
BLOCK = 32768
SWEEPS = Path(experiments.__file__).parent / "sweeps"


def records(path):
    """Yield the records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    data = path.read_bytes()
    offset, fragments = 7, []
    while offset + 7 <= len(data):
        left_in_block = BLOCK - offset % BLOCK
        if left_in_block < 7:
            offset += left_in_block
            continue
        size, fragment_type = struct.unpack_from("<HB", data, offset + 4)
        if offset + 7 + size > len(data):
            return  # still being written
        fragments.append(data[offset + 7 : offset + 7 + size])
        offset += 7 + size
        if fragment_type in (1, 4):
            record = Record()
            record.ParseFromString(b"".join(fragments))
            yield record
            fragments = []


def finished_run_records(path):
    """Return a run's records. W&B's service may write the last one after the run has returned."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        run_records = list(records(path))
        if any(record.WhichOneof("record_type") == "exit" for record in run_records):
            return run_records
        time.sleep(0.01)
    raise TimeoutError(f"{path} never got its exit record")


def read_back(folder):
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    run, history, artifacts = None, [], []
    for record in finished_run_records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
        elif kind == "history":
            items = record.history.item
            history.append(
                {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
            )
        elif kind == "artifact" or (kind == "request" and record.request.HasField("log_artifact")):
            artifacts.append(
                record.artifact if kind == "artifact" else record.request.log_artifact.artifact
            )
    config = {c.key: json.loads(c.value_json) for c in run.config.update}
    return run, config, history, artifacts


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


def test_an_offline_run_holds_its_configuration_curves_and_artifact(tmp_path, offline):
    requests = made.chats(30, KINDS)
    made.profile(tmp_path, requests, lambda r, d: float(r.task == "lookup" or d == "none"))
    write_trace(tmp_path / "trace.csv")
    out = tmp_path / "policy"
    command = ["train", "--outcomes", str(tmp_path / "profile.parquet"), "--out", str(out)]
    command += ["--start-batches", "5", "--replay-steps", "81920"]
    command += ["--intensity", str(tmp_path / "trace.csv")]
    assert main(command) == 0

    run, config, history, artifacts = read_back(out / "tracking")
    assert run.run_group == "train"
    assert config["seed"] == 0
    assert len(config["inputs"]["profile_sha256"]) == 64
    curves = [row for row in history if "reward/footprint" in row]
    assert [row["_step"] for row in curves] == list(range(4096, 81921, 4096))
    assert {"reward/quality", "train/value_loss"} <= set(curves[-1])
    probed = [row for row in history if "validation/quality/price 3" in row]
    assert [row["_step"] for row in probed] == [81920]
    (artifact,) = [a for a in artifacts if a.type == "policy"]
    assert artifact.name == "policy-bundle"
    artifact_sizes = {entry.path: entry.size for entry in artifact.manifest.contents}
    files = {"manifest.json", "policy.safetensors", "vocabulary.json", "front.json"}
    assert set(artifact_sizes) == files
    assert artifact_sizes["manifest.json"] == (out / "manifest.json").stat().st_size
    assert json.loads(artifact.metadata)["profile_sha256"] == config["inputs"]["profile_sha256"]
    assert any(key.startswith("by_task") for row in history for key in row)
    (table,) = (out / "tracking").glob("wandb/offline-run-*/files/media/table/by_task*.json")
    rows = json.loads(table.read_text())
    assert rows["columns"][:2] == ["task", "quality_ratio"]
    assert {row[0] for row in rows["data"]} >= set(KINDS)
    assert exit_code(out / "tracking") == 0


def test_a_resumed_run_keeps_its_id_and_a_new_run_gets_another(tmp_path, offline, monkeypatch):
    from experiments.tracking import tracked

    with tracked({}, tmp_path, "g"):
        pass
    first = (tmp_path / "run-id").read_text()
    with tracked({}, tmp_path, "g", resume=True):
        pass
    assert (tmp_path / "run-id").read_text() == first
    with tracked({}, tmp_path, "g"):
        pass
    assert (tmp_path / "run-id").read_text() != first


def exit_code(folder):
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    (last,) = [r.exit for r in finished_run_records(path) if r.WhichOneof("record_type") == "exit"]
    return last.exit_code


def test_a_refused_training_prints_one_line_and_marks_its_run_as_failed(tmp_path, offline):
    made.profile(tmp_path, made.chats(30, KINDS), lambda r, d: 1.0)
    out = tmp_path / "policy"
    command = ["train", "--outcomes", str(tmp_path / "profile.parquet"), "--out", str(out)]
    completed = subprocess.run(
        [sys.executable, "-m", "experiments.cli", *command, "--resume"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 2
    assert completed.stderr.startswith(f"sprout: {out / 'checkpoint'}: no checkpoint")
    assert completed.stderr.count("\n") == 1
    assert exit_code(out / "tracking") == 1


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        ("DataError('p.parquet', 'no rows', 'record it anew')", 2, "sprout: p.parquet: no rows"),
        ("OSError(28, 'No space left on device')", 2, "sprout: [Errno 28] No space left"),
        ("KeyboardInterrupt()", 130, "sprout: interrupted"),
    ],
)
def test_an_error_in_a_tracked_command_prints_one_line_and_marks_its_run_as_failed(
    tmp_path, offline, raised, status, line
):
    # A made-up command stands for all of them, because all share `tracked`.
    (tmp_path / "made.py").write_text(
        "import pathlib, sys\n"
        "from envs.errors import DataError\n"
        "from experiments import cli\n"
        "from experiments.settings import Settings\n"
        "from experiments.tracking import tracked\n"
        "class Made(Settings):\n"
        "    def cli_cmd(self):\n"
        f"        with tracked({{}}, pathlib.Path({str(tmp_path / 'tracking')!r}), 'g'):\n"
        f"            raise {raised}\n"
        "cli.COMMANDS['made'] = ('__main__:Made', '')\n"
        "sys.exit(cli.main(['made']))\n"
    )
    completed = subprocess.run(
        [sys.executable, str(tmp_path / "made.py")], capture_output=True, text=True, check=False
    )
    assert completed.returncode == status
    assert completed.stderr.startswith(line)
    assert completed.stderr.count("\n") == 1
    assert exit_code(tmp_path / "tracking") == 1


def test_a_profile_is_logged_by_path_and_digest_without_copying_its_prompts(tmp_path, offline):
    from agents.policy.bundle_files import sha256_of
    from experiments.tracking import tracked

    path = tmp_path / "profile.parquet"
    path.write_bytes(b"somebody's prompts")
    with tracked({}, tmp_path / "tracking", "profile") as run:
        run.artifact("profile", "profile", [path], {"digest": sha256_of(path)}, copied=False)
    _, _, _, artifacts = read_back(tmp_path / "tracking")
    (artifact,) = [a for a in artifacts if a.type == "profile"]
    (entry,) = artifact.manifest.contents
    assert entry.ref == path.as_uri()
    assert json.loads(artifact.metadata)["digest"] == sha256_of(path)
    tracking_files = [file for file in (tmp_path / "tracking").rglob("*") if file.is_file()]
    assert not [file for file in tracking_files if b"somebody's prompts" in file.read_bytes()]


def test_runs_of_a_sweep_share_a_group(tmp_path, offline, monkeypatch):
    from experiments.tracking import tracked

    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    with tracked({}, tmp_path / "one", "train"):
        pass
    assert read_back(tmp_path / "one")[0].run_group == "sweep-s1"


@pytest.mark.long
def test_the_shipped_sweep_trains_with_the_command_that_an_agent_would_run(tmp_path, monkeypatch):
    """W&B's own code builds the command from the file; only its service is not involved."""
    # Imported here, because this package takes seconds to import.
    from wandb.sdk.launch.sweeps import utils as sweep_utils

    sweep = yaml.safe_load((SWEEPS / "ppo.yaml").read_text())
    chosen_parameters = {
        name: {"value": parameter.get("values", [parameter.get("min")])[0]}
        for name, parameter in sweep["parameters"].items()
    }
    variables = sweep_utils.create_sweep_command_args({"args": chosen_parameters})
    command = []
    for part in sweep_utils.create_sweep_command(sweep["command"]):
        command += variables["args"] if part == "${args}" else [part]
    made.profile(tmp_path, made.chats(30, KINDS), lambda r, d: 1.0)
    completed = subprocess.run(
        command,
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SPROUT_OUTCOMES": "profile.parquet",
            "SPROUT_REPLAY_STEPS": "4096",
            "WANDB_RUN_ID": "run1",
            "WANDB_MODE": "disabled",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    manifest = json.loads((tmp_path / "runs/sweep/run1/manifest.json").read_text())
    for name, parameter in chosen_parameters.items():
        assert manifest["training"][name] == parameter["value"]
    assert manifest["validation"][sweep["metric"]["name"]] > 0
