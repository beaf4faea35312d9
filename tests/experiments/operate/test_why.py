"""Why a recorded request got its directive, against policies whose prices are known."""

import asyncio
import base64
import json
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest

from agents.policy.network import Policy
from envs.errors import ConfigError
from envs.requests.directive import DEFAULT_CATALOGUE
from envs.requests.features import Featurizer
from envs.requests.structure import Feature
from experiments.operate.explain import Explain
from experiments.operate.why import REASONS, explained
from experiments.settings import run_command
from serving.hook.assembly import make_hook
from serving.hook.outcome import ReportedAnswer, Usage
from serving.ledger.database import Ledger
from serving.ledger.record import Amendment
from serving.telemetry.metrics import FAIL_OPEN
from tests import made
from tests.serving.hooks import CHAT, config, hook, keeper

TEXT = tuple(
    Feature(name, "", -8, 8, "")
    for name in (
        *(f"quality={d}" for d in DEFAULT_CATALOGUE.names),
        *(f"log_energy={d}" for d in DEFAULT_CATALOGUE.names),
        *("like=faq", "like=proof"),
    )
)
FEATURIZER = Featurizer(["faq", "proof"], SimpleNamespace(features=TEXT))
NAMES = FEATURIZER.names
# 36 kJ under L0: at 100 gCO2e/kWh, that is 1 g.
MANIFEST = {
    "energy": {"l0_joules": 36_000.0},
    "footprint_ref_grams": 1.0,
    "tasks": ["faq", "proof"],
    "objective": {"grams": 1.0},
    "quality_l0": {"faq": 0.8, "proof": 0.8},
}


def bundle(manifest=None):
    """Return a policy that takes "brief" from 240 gCO2e/kWh on, if it spares half of the energy."""
    weight = np.zeros((3, len(NAMES)), np.float32)
    weight[1, NAMES.index("spared=brief")] = 100.0
    layers = ((weight, np.array([120.0, 0.0, -1000.0], np.float32)),)
    zero, one = np.zeros(len(NAMES), np.float32), np.ones(len(NAMES), np.float32)
    policy = Policy(zero, one, layers, clip=float("inf"))
    return SimpleNamespace(
        policy=policy,
        featurizer=FEATURIZER,
        catalogue=DEFAULT_CATALOGUE,
        manifest=MANIFEST if manifest is None else manifest,
    )


def explain(level, directive, task="faq", manifest=None, **values):
    features = np.zeros((1, len(NAMES)), np.float32)
    known = {"quality=none": 0.8, "quality=brief": 0.4, "log_energy=brief": np.log(0.5)}
    for name, value in (known | {"like=faq": 0.25, "like=proof": 0.75}).items():
        features[0, NAMES.index(name)] = value
    features = FEATURIZER.at_intensity(features, np.array([level]))[0]
    record = {
        "decision_id": "d",
        "directive": directive,
        "applied": True,
        "reason": "policy",
        "probability": 1.0,
        "task": task,
        "intensity_g_per_kwh": level,
        "price": 2.0,
        "floor": 0.97,
        "floor_from": "operator",
    }
    return explained(bundle(manifest), record | values, features)


def test_what_a_directive_spares_is_weighed_against_the_price_of_its_quality():
    # It spares half of 4 g; the quality it costs, half of L0's, is worth 2 x 1 g x 0.5.
    result = explain(400.0, "brief")
    assert result["spared_mg"] == pytest.approx(2000)
    assert result["quality_price_mg"] == pytest.approx(1000)
    assert result["text"].startswith(
        "brief, because at 400 gCO2e/kWh it spares 2,000 mg and the quality it costs in task faq "
        "is priced at 1,000 mg; below 24"
    )
    assert "gCO2e/kWh it would have been none" in result["text"]
    assert result["text"].endswith(
        "the price of quality is 2, for the floor 0.97 of an operator's setting"
    )


def test_l0_is_weighed_against_the_directive_in_its_place():
    text = explain(100.0, "none")["text"]
    assert text.startswith("none, because at 100 gCO2e/kWh brief spares 500 mg and the quality")
    assert "on it would have been brief" in text


def test_a_choice_against_the_prices_is_not_said_to_be_because_of_them():
    assert "although at 230 gCO2e/kWh brief spares" in explain(230.0, "none")["text"]


def test_without_a_tag_the_tasks_that_it_looks_like_are_what_quality_is_relative_to():
    manifest = MANIFEST | {"quality_l0": {"faq": 0.8, "proof": 0.4}}
    result = explain(400.0, "brief", task=None, manifest=manifest, price=3.0)
    assert result["quality_price_mg"] == pytest.approx(3000 * (0.25 / 0.8 + 0.75 / 0.4) * 0.4)
    assert "in what looks like task proof" in result["text"]


def test_a_draw_against_the_odds_and_shadow_are_said():
    assert explain(400.0, "none", probability=0.02)["text"].startswith(
        "none (by chance: probability 0.02), although"
    )
    shadow = explain(400.0, "brief", applied=False)["text"]
    assert shadow.startswith("would have been brief, because")
    assert shadow.endswith("(mode shadow)")


def test_a_decision_of_the_ledger_names_its_price_and_floor(tmp_path, capsys):
    made.priced_bundle(tmp_path / "bundle")
    made_hook = make_hook(config(tmp_path, floor="faq=0.98"))
    plan = asyncio.run(made_hook.plan("/v1/chat/completions", CHAT, {"x-sprout-task": "faq"}))
    answer = ReportedAnswer(plan.started, 200, 0.1, Usage(1, 2, "reported"))
    made_hook.finish(plan, answer, "completed")
    ledger_keeper = keeper(made_hook)
    ledger_keeper.step()
    ledger_keeper.close()
    flags = ["--decision", plan.record.decision_id, "--ledger", made_hook.config.ledger_url]
    run_command(Explain, "explain", [str(tmp_path / "bundle"), *flags])
    text = capsys.readouterr().out
    price = f"the price of quality is {plan.record.price:.3g}"
    assert f"{price}, for the floor 0.98 of the flag or file of the start" in " ".join(text.split())


def test_a_request_is_explained_with_the_floors_that_would_change_its_directive(tmp_path, capsys):
    made.priced_bundle(tmp_path / "bundle")
    out = tmp_path / "why.json"
    prices = []
    for floor in ("0.6", "0.99"):
        flags = ["--request", "What is 7?", "--task", "legal", "--floor", floor]
        run_command(Explain, "explain", [str(tmp_path / "bundle"), *flags, "--json", str(out)])
        decision = json.loads(out.read_text())["decision"]
        assert decision["floor"] == float(floor)
        prices.append(decision["price"])
        assert [turn["directive"] for turn in decision["by_floor"]] == ["very_brief", "none"]
    assert prices[0] < prices[1]
    # Half of the quality is kept by very brief answers, so L0 is likelier from 3/4 on.
    assert decision["by_floor"][1]["from_floor"] == pytest.approx(0.75, abs=0.01)
    assert "by floor: from 0.5 very_brief; from 0.75" in capsys.readouterr().out


def test_the_share_that_is_left_at_l0_beyond_the_front_is_in_the_explained_odds(tmp_path):
    made.priced_bundle(tmp_path / "bundle")
    out = tmp_path / "why.json"
    chances = {}
    # The front reaches 0.99995.
    for floor in ("0.9999", "1"):
        flags = ["--request", "What is 7?", "--task", "legal", "--floor", floor]
        run_command(Explain, "explain", [str(tmp_path / "bundle"), *flags, "--json", str(out)])
        chances[floor] = json.loads(out.read_text())["decision"]["probabilities"]["none"]
    assert chances["0.9999"] < 1
    assert chances["1"] == 1


@pytest.mark.parametrize(
    ("changed", "price"),
    [
        *(({name: None}, 2.0) for name in ("energy", "quality_l0", "footprint_ref_grams")),
        ({}, None),
        # Seconds or money count too, so that the price is not one in grams alone.
        ({"objective": {"grams": 0.5, "seconds": 0.5}}, 2.0),
    ],
)
def test_an_unknown_cost_is_said_to_be_unknown(changed, price):
    text = explain(400.0, "brief", manifest=MANIFEST | changed, price=price)["text"]
    assert "the policy's training does not tell the cost" in text
    assert "mg" not in text


def test_every_reason_has_words():
    assert set(FAIL_OPEN) <= REASONS.keys()


def test_the_command_explains_records_of_the_ledger(tmp_path, capsys):
    made_hook = hook(tmp_path)
    chats = [({}, CHAT), ({"x-sprout-opt-out": "1"}, CHAT)]

    async def play():
        for headers, body in chats:
            plan = await made_hook.plan("/v1/chat/completions", body, headers)
            made_hook.finish(
                plan, ReportedAnswer(plan.started, 200, 0.1, Usage(1, 2, "reported")), "completed"
            )

    asyncio.run(play())
    ledger_keeper = keeper(made_hook)
    ledger_keeper.step()
    ledger_keeper.close()
    url = made_hook.config.ledger_url
    with closing(Ledger(url)) as ledger:
        policy, opted_out = [row[0] for row in ledger.rows(("decision_id",))]
        features = ledger.find(policy)["features"]
    assert base64.b64decode(features)
    folder = str(tmp_path / "bundle")

    def run(decision, *flags):
        run_command(Explain, "explain", [folder, "--decision", decision, "--ledger", url, *flags])
        return capsys.readouterr().out

    out = tmp_path / "why.json"
    assert run(policy, "--json", str(out)).startswith("very_brief, at 331 gCO2e/kWh; the policy's")
    assert json.loads(out.read_text())["recorded"]["directive"] == "very_brief"
    assert run(opted_out) == "none, because the caller sent x-sprout-opt-out\n"
    with pytest.raises(ConfigError, match="has no such decision"):
        run("0" * 32)
    with closing(Ledger(url)) as ledger:
        ledger.amend([Amendment(policy, {"reason": "rule", "rule": "r", "applied": False})])
    assert run(policy) == "would have been very_brief, because rule 'r' says so (mode shadow)\n"
    with closing(Ledger(url)) as ledger:
        ledger.amend([Amendment(policy, {"reason": "policy", "applied": True})])
    made.bundle(tmp_path / "bundle", (50.0, 0.0, 0.0))
    with pytest.raises(ConfigError, match="decided it, and"):
        run(policy)
