"""Operators' commands on a ledger that a hook has filled."""

import asyncio
import json
import time
from contextlib import closing

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from envs.errors import ConfigError, DataError
from envs.outcomes.profile_reader import read_profile
from envs.requests.features import Featurizer
from experiments.operate.mode import ModeCommand
from experiments.operate.settings_commands import LEDGER, RULES
from experiments.operate.status import Status
from experiments.record.profile import ProfileCommand
from experiments.settings import run_command
from serving.hook.outcome import ReportedAnswer, Usage
from serving.ledger.database import Ledger
from serving.ledger.record import Record, new_id
from serving.ledger.replica import Replica
from tests.serving.hooks import CHAT, hook, keeper
from tests.serving.quality.verdicts import verdict


@pytest.fixture
def ledger(tmp_path):
    """URL of a ledger of 120 requests, half of them held out."""
    return play(tmp_path, hold_out=0.5, store_prompts=True, tenant_header="x-tenant")


def play(folder, count=120, **settings):
    """Play requests through a hook and return the URL of its ledger."""
    sprout_hook = hook(folder, **settings)

    async def requests():
        for n in range(count):
            body = CHAT | {"messages": [{"role": "user", "content": f"What is {n}?"}]}
            headers = {"x-tenant": "a" if n % 3 else "b", "x-sprout-task": "arithmetic"}
            plan = await sprout_hook.plan("/v1/chat/completions", body, headers)
            tokens = 40 if plan.record.directive == "none" else 4
            answer = ReportedAnswer(
                plan.started, 200, 0.01, Usage(10, tokens, "reported"), "So it is."
            )
            sprout_hook.finish(plan, answer, "completed")

    asyncio.run(requests())
    ledger_keeper = keeper(sprout_hook)
    ledger_keeper.step()
    ledger_keeper.close()
    return sprout_hook.config.ledger_url


def run(command, *flags):
    run_command(command, "test", list(flags))


def test_a_mode_that_was_set_is_shown_without_the_salt(ledger, tmp_path, capsys):
    out = tmp_path / "mode.json"
    run(ModeCommand, "--ledger", ledger, "--set", "shadow", "--canary-tasks", "a", "b")
    run(ModeCommand, "--ledger", ledger, "--json", str(out))
    mode_settings = json.loads(out.read_text())
    assert (mode_settings["mode"], mode_settings["canary_tasks"]) == ("shadow", ["a", "b"])
    printed = capsys.readouterr().out
    assert "salt" not in printed
    assert "--canary-tasks: nobody knows task 'a' yet; known: arithmetic" in printed
    run(ModeCommand, "--ledger", ledger, "--canary-tasks", "none", "--json", str(out))
    assert json.loads(out.read_text())["canary_tasks"] == []
    with pytest.raises(ConfigError, match="no such file"):
        run(ModeCommand, "--ledger", "sqlite:///nowhere/l.db", "--set", "off")


def test_the_status_shows_the_replicas_where_no_gateway_answers(ledger, tmp_path, capsys):
    flags = ("--gateway", "http://127.0.0.1:9", "--json", str(tmp_path / "status.json"))
    with pytest.raises(ConfigError, match="no gateway answers"):
        run(Status, *flags, "--ledger", "sqlite:///nowhere/l.db")
    with closing(Ledger(ledger)) as opened:
        opened.announce(Replica(name="h:/state", seen=time.time(), mode="off", off=("admin on h",)))
        opened.announce(Replica(name="h:/old", seen=time.time() - 300, mode="on"))
    run(Status, *flags, "--ledger", ledger)
    shown = capsys.readouterr().out
    assert "replica h:/state: mode off, kill switch: admin on h" in shown
    assert "replica h:/old: away for 300 s" in shown
    assert len(json.loads((tmp_path / "status.json").read_text())["replicas"]) == 2


def test_rules_can_be_tried_on_recorded_requests_and_set(ledger, tmp_path, capsys):
    path, out = tmp_path / "rules.yaml", tmp_path / "tried.json"
    rows = [
        {"name": "theirs", "when": {"tenant": "b"}, "forbid": True},
        {"name": "rest", "when": {"task": "arith*"}, "force": "brief"},
        {"name": "dev", "when": {"headers": {"x-env": "dev"}}, "mode": "off"},
    ]
    path.write_text(yaml.safe_dump(rows))
    run(RULES["try"], "--ledger", ledger, "--rules", str(path), "--json", str(out))
    trial = json.loads(out.read_text())
    assert trial["requests"] == 120
    assert {k: v["requests"] for k, v in trial["rules"].items()} == {
        "theirs": 40,
        "rest": 80,
        "dev": 0,
    }
    run(RULES["set"], "--ledger", ledger, "--rules", str(path))
    run(ModeCommand, "--ledger", ledger)
    assert '"name": "theirs"' in capsys.readouterr().out


def test_savings_are_estimated_from_the_hold_out(ledger, tmp_path, capsys):
    out = tmp_path / "savings.json"
    flags = ("--ledger", ledger, "--json", str(out))
    run(LEDGER["savings"], *flags, "--settle-minutes", "0", "--since", "yesterday")
    savings = json.loads(out.read_text())
    assert savings["completion_tokens"]["ratio"] == pytest.approx(0.9, abs=0.01)
    assert savings["tasks"]["arithmetic"]["conversations"] == 120
    shown = capsys.readouterr().out
    assert "carbon saved: " in shown
    assert "tokens times a constant" in shown


def test_what_judging_took_is_netted_from_the_savings(ledger, tmp_path, capsys):
    now = time.time()
    made = Record(
        new_id(), now - 60, "/v1/chat/completions", reason="evaluation", energy_joules=36.0,
        grams=0.5, status=200, outcome="completed",
    )  # fmt: skip
    judged = verdict(
        decided=now - 60, judge_joules=12.0, evaluation_joules=36.0, evaluation_grams=0.8
    )
    with closing(Ledger(ledger)) as opened:
        opened.add([made])
        opened.add([judged])
    out = tmp_path / "savings.json"
    flags = ("--ledger", ledger, "--json", str(out), "--settle-minutes", "0", "--hours", "1")
    run(LEDGER["savings"], *flags)
    savings = json.loads(out.read_text())
    cost = savings["evaluation"]
    # The judge took a quarter of the joules, so a quarter of the verdict's grams are its own.
    assert (cost["answers"], cost["joules"], cost["unknown"]) == (1, 48.0, 0)
    assert cost["grams"] == pytest.approx(0.7)
    assert cost["net_grams"] == pytest.approx(savings["grams"]["total"] - 0.7)
    assert "saved net of that" in capsys.readouterr().out
    # The answers that were made to judge are in neither arm.
    assert savings["arms"]["l0"]["requests"] + savings["arms"]["policy"]["requests"] == 120


def test_conversations_of_the_last_hour_are_named_as_left_out(ledger, capsys):
    run(LEDGER["savings"], "--ledger", ledger)
    shown = capsys.readouterr().out
    assert "no estimate: fewer than 30 draws" in shown
    assert "120 conversations that opened in the last 60 minutes" in shown


@pytest.mark.parametrize(
    "flags",
    [
        ("--since", "long ago"),
        ("--since", "2099-01-01"),
        ("--since", "today", "--hours", "3"),
        ("--until", "2020-13-01"),
    ],
)
def test_a_wrong_period_is_named(ledger, flags):
    with pytest.raises(ConfigError, match="--since"):
        run(LEDGER["savings"], "--ledger", ledger, *flags)


def test_records_are_exported_as_parquet_and_deleted_by_tenant_or_age(ledger, tmp_path):
    out = tmp_path / "rows.parquet"
    run(LEDGER["export"], "--ledger", ledger, "--out", str(out))
    rows = pq.read_table(out).to_pylist()
    assert len(rows) == 120
    assert {r["directive"] for r in rows} == {"none", "very_brief"}
    assert all(0 < r["probability"] <= 1 and r["energy_joules"] > 0 for r in rows)
    assert json.loads(rows[0]["messages"])[0]["content"].startswith("What is")
    run(LEDGER["delete"], "--ledger", ledger, "--tenant", "b")
    run(LEDGER["export"], "--ledger", ledger, "--out", str(out))
    assert pq.read_table(out).num_rows == 80
    run(LEDGER["delete"], "--ledger", ledger, "--older-than-days", "0")
    with pytest.raises(ConfigError, match="--store-prompts"):
        run(LEDGER["export"], "--ledger", ledger, "--out", str(out))
    with pytest.raises(ConfigError, match="give --request"):
        run(LEDGER["delete"], "--ledger", ledger)


@pytest.mark.long
def test_exported_requests_are_profiled_under_all_directives(ledger, tmp_path, llama):
    exported_path, out = tmp_path / "asked.parquet", tmp_path / "profile.parquet"
    run(LEDGER["delete"], "--ledger", ledger, "--tenant", "a")
    run(LEDGER["export"], "--ledger", ledger, "--out", str(exported_path))
    server_flags = ("--upstream", llama.url, "--model", llama.model)
    run(ProfileCommand, *server_flags, "--requests", str(exported_path), "--out", str(out))
    profile = read_profile(out)
    assert profile.directives == ("none", "brief", "very_brief")
    exported_prompts = {
        json.loads(m)[0]["content"] for m in pq.read_table(exported_path)["messages"].to_pylist()
    }
    assert {r.messages[0]["content"] for r in profile.requests} == exported_prompts
    assert len(exported_prompts) == 40
    assert {r.task for r in profile.requests} == {"arithmetic"}


def test_shadow_shows_what_the_policy_would_have_done(tmp_path, capsys):
    figures = {"joules_ratio_error": 0.0, "quality_ratio_error": 0.01}
    figures |= {"weight": 9, "joules": 1.0, "joules_l0": 4.0, "quality": 0.9, "quality_l0": 1.0}
    chosen = {"": {"very_brief": figures}}
    floors = {"floors": {"arithmetic": 0.95}, "foretold": {"chosen": chosen}}
    url = play(tmp_path, mode="shadow", extra=floors)
    run(LEDGER["shadow"], "--ledger", url, "--json", str(tmp_path / "shadow.json"))
    printed = capsys.readouterr().out
    assert "task arithmetic: 120 requests would get very_brief 100 %; foretold saving 75.0 %" in (
        printed
    )
    assert "foretold quality 0.900 [0.880, 0.920] of L0's (no directive), floor 0.95" in printed
    shadow = json.loads((tmp_path / "shadow.json").read_text())
    assert shadow["tasks"]["arithmetic"]["directives"] == {"very_brief": 1.0}
    run(LEDGER["shadow"], "--ledger", url, "--until", "yesterday")
    assert "no request in mode shadow" in capsys.readouterr().out


def test_an_export_for_off_policy_evaluation_has_propensities_with_the_hold_out(tmp_path):
    # Half of the draws are held out; the policy takes none, brief and very_brief at 1:2:1.
    logits = tuple(np.log([0.25, 0.5, 0.25]))
    url = play(tmp_path, hold_out=0.5, count=600, logits=logits)
    out = tmp_path / "ope.parquet"
    run(LEDGER["export"], "--ledger", url, "--out", str(out), "--for-ope")
    table = pq.read_table(out)
    rows = table.to_pylist()
    assert len(rows) == 600
    expected = {"none": 0.625, "brief": 0.25, "very_brief": 0.125}
    for row in rows:
        assert row["propensity"] == pytest.approx(expected[row["action"]])
        assert row["hold_out"] <= (row["action"] == "none")
    # Inverse propensities are unbiased: each action's weights sum to the number of requests.
    for action in expected:
        weights = [1 / row["propensity"] for row in rows if row["action"] == action]
        assert sum(weights) / len(rows) == pytest.approx(1.0, abs=0.25)
    assert b"do not multiply" in table.schema.metadata[b"propensity"]
    assert len(rows[0]["context"]) == len(made_features())


def test_exploration_gives_every_directive_a_least_propensity(tmp_path):
    url = play(tmp_path, hold_out=0.0, explore=0.3, count=300)
    out = tmp_path / "ope.parquet"
    run(LEDGER["export"], "--ledger", url, "--out", str(out), "--for-ope")
    rows = pq.read_table(out).to_pylist()
    assert {row["action"] for row in rows} == {"none", "brief", "very_brief"}
    for row in rows:
        expected = 0.8 if row["action"] == "very_brief" else 0.1
        assert row["propensity"] == pytest.approx(expected, abs=1e-6)


def test_an_export_is_no_profile_and_the_error_says_what_to_do(ledger, tmp_path):
    out = tmp_path / "export.parquet"
    run(LEDGER["export"], "--ledger", ledger, "--out", str(out))
    with pytest.raises(DataError, match=r"one directive a request.*sprout profile --requests"):
        read_profile(out)


def made_features():
    return Featurizer(("arithmetic",)).names
