import asyncio
import math
import time

import numpy as np
import pytest
import yaml

from envs.carbon.csv_traces import synthetic_day
from envs.errors import ConfigError
from serving.apis.naming import Naming
from serving.hook.conversation import (
    DAY_SECONDS,
    ConversationMemory,
    StickyChoice,
    draw_lottery,
    identify,
)
from serving.hook.core import Hook
from serving.hook.decider import Decider, draw
from serving.hook.grid import Grid
from serving.hook.outcome import ReportedAnswer
from serving.settings.rules import check_rules
from tests import made
from tests.serving.hooks import CHAT, hook, records

ROUTE = "/v1/chat/completions"
MIXED_LOGITS = tuple(math.log(p) for p in (0.5, 0.3, 0.2))
NAMES = ("none", "brief", "very_brief")


USER, SCOPE, UNNAMED = {"role": "user"}, ("t", "m"), Naming(None, None, False)


def plan(hook: Hook, body=CHAT, headers=None):
    made_plan = asyncio.run(hook.plan(ROUTE, body, headers or {}))
    hook.finish(made_plan, ReportedAnswer(made_plan.started), "completed")
    return made_plan.record


def chat(text, *more):
    return CHAT | {"messages": [{"role": "user", "content": text}, *more]}


def follow_up(text):
    return chat(text, {"role": "assistant", "content": "So"}, {"role": "user", "content": "And?"})


def test_directives_are_drawn_with_their_probability(tmp_path):
    made_hook = hook(tmp_path, MIXED_LOGITS)
    drawn_records = [plan(made_hook, chat(f"What is {n}?")) for n in range(4000)]
    for name, share in zip(NAMES, (0.5, 0.3, 0.2), strict=True):
        chosen = [record for record in drawn_records if record.directive == name]
        assert len(chosen) / 4000 == pytest.approx(share, abs=0.03)
        assert all(record.probability == pytest.approx(share) for record in chosen)


def test_a_directive_without_probability_is_never_drawn():
    for uniform in (0.0, 0.5, 1 - 2**-53):
        assert draw([0.5, 0.0, 0.5, 0.0], uniform) in (0, 2)


def test_a_single_observation_gets_the_same_probabilities_as_in_a_batch(tmp_path):
    bundle = made.bundle(tmp_path)
    rng = np.random.default_rng(0)
    layers = tuple(
        (rng.normal(size=shape).astype(np.float32), rng.normal(size=shape[0]).astype(np.float32))
        for shape in ((8, len(bundle.featurizer.names)), (3, 8))
    )
    policy = type(bundle.policy)(bundle.policy.mean, bundle.policy.scale, layers)
    observations = rng.normal(size=(1000, len(bundle.featurizer.names)), scale=4).astype(np.float32)
    one_by_one = [policy.probabilities_of(row) for row in observations]
    np.testing.assert_allclose(one_by_one, policy.probabilities(observations), atol=1e-5)


def test_a_policy_that_returns_nan_fails_open(tmp_path, monkeypatch):
    made_hook = hook(tmp_path)
    policy = type(made_hook.policies.loaded[0].bundle.policy)
    monkeypatch.setattr(policy, "probabilities_of", lambda self, observation: [math.nan] * 3)
    assert plan(made_hook).reason == "failed"


def test_a_conversation_keeps_its_directive(tmp_path):
    made_hook = hook(tmp_path, MIXED_LOGITS)
    for n in range(200):
        first_turn, next_turn = (
            plan(made_hook, chat(f"What is {n}?")),
            plan(made_hook, follow_up(f"What is {n}?")),
        )
        assert (next_turn.directive, next_turn.reason) == (first_turn.directive, "sticky")
        assert next_turn.probability == pytest.approx(first_turn.probability)
        assert next_turn.conversation == first_turn.conversation


def test_a_conversation_keeps_its_directive_on_another_replica(tmp_path):
    replica, other_replica = hook(tmp_path, MIXED_LOGITS), hook(tmp_path, MIXED_LOGITS)
    for n in range(200):
        first_turn, next_turn = (
            plan(replica, chat(f"What is {n}?")),
            plan(other_replica, follow_up(f"What is {n}?")),
        )
        assert (next_turn.directive, next_turn.reason) == (first_turn.directive, "policy")


def test_a_conversation_header_takes_precedence_over_the_text(tmp_path):
    made_hook = hook(tmp_path, MIXED_LOGITS)
    named_records = [
        plan(made_hook, chat(f"What is {n}?"), {"x-sprout-conversation": "c1"}) for n in range(20)
    ]
    assert len({record.directive for record in named_records}) == 1
    assert len({record.conversation for record in named_records}) == 1


@pytest.mark.parametrize("hold_out", [0.0, 0.5])
def test_a_conversation_under_way_at_midnight_keeps_its_directive(tmp_path, monkeypatch, hold_out):
    made_hook, now = hook(tmp_path, MIXED_LOGITS, hold_out=hold_out), [100.0 * DAY_SECONDS - 60]
    monkeypatch.setattr(time, "time", lambda: now[0])
    first_turns = [plan(made_hook, chat(f"What is {n}?")) for n in range(100)]
    now[0] += 120
    for n, first_turn in enumerate(first_turns):
        later_turn = plan(made_hook, follow_up(f"What is {n}?"))
        assert later_turn.conversation == first_turn.conversation
        assert (later_turn.directive, later_turn.hold_out) == (
            first_turn.directive,
            first_turn.hold_out,
        )
        assert (first_turn.opening, later_turn.opening) == (True, False)
    new_day = [plan(made_hook, chat(f"What is {n}?")) for n in range(100)]
    assert {record.conversation for record in new_day}.isdisjoint(
        record.conversation for record in first_turns
    )
    assert [r.directive for r in new_day] != [r.directive for r in first_turns]


def test_identical_openings_of_named_users_are_drawn_apart(tmp_path):
    made_hook = hook(tmp_path, MIXED_LOGITS)
    bodies = {
        "message": lambda n: chat("Hello"),
        "user": lambda n: chat("Hello") | {"user": f"u{n}"},
        "conversation": lambda n: chat("Hello") | {"metadata": {"session_id": f"s{n}"}},
    }
    for keyed_by, body in bodies.items():
        all_records = [plan(made_hook, body(n)) for n in range(50)]
        assert {record.keyed_by for record in all_records} == {keyed_by}
        draws = {record.conversation for record in all_records}
        assert len(draws) == (1 if keyed_by == "message" else 50)


@pytest.mark.parametrize(
    ("body", "opening"),
    [
        ({}, True),
        ({"previous_response_id": "resp_1"}, False),
        ({"conversation": "conv_1"}, None),
        ({"conversation": {"id": "conv_1"}}, None),
        ({"user": 7, "metadata": ["x"], "conversation": ""}, True),
    ],
)
def test_a_body_tells_whether_it_opens_a_conversation(tmp_path, body, opening):
    assert plan(hook(tmp_path), chat("Hello") | body).opening is opening


def test_the_hold_out_keeps_a_share_of_conversations_at_l0(tmp_path):
    made_hook = hook(tmp_path, hold_out=0.2)
    all_records = [plan(made_hook, chat(f"What is {n}?")) for n in range(3000)]
    held_out = [r for r in all_records if r.hold_out]
    assert len(held_out) / 3000 == pytest.approx(0.2, abs=0.02)
    assert {(r.directive, r.reason, r.applied) for r in held_out} == {("none", "hold_out", True)}
    assert all(r.lottery and r.hold_out_ratio == 0.2 for r in all_records)
    for n, record in enumerate(all_records[:200]):
        assert plan(made_hook, follow_up(f"What is {n}?")).hold_out == record.hold_out


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_conversation_has_one_propensity_also_if_it_is_held_out(tmp_path, monkeypatch, forgotten):
    def by_turns(self, observation, l0_share, explored):
        of_none = 0.2 if observation[self.bundle.featurizer.names.index("turns")] < 2 else 0.7
        return [of_none, 0.9 - of_none, 0.1]

    monkeypatch.setattr(Decider, "_probabilities", by_turns)
    made_hook = hook(tmp_path, hold_out=0.5)
    held_out = set()
    for n in range(40):
        first_turn = plan(made_hook, chat(f"What is {n}?"))
        if forgotten:
            made_hook._steering._memory = ConversationMemory()
        later_turns = [plan(made_hook, follow_up(f"What is {n}?")) for _ in range(2)]
        held_out.add(first_turn.hold_out)
        for turn in later_turns:
            assert (turn.hold_out, turn.directive) == (first_turn.hold_out, first_turn.directive)
            assert turn.probability == pytest.approx(first_turn.probability)
    assert held_out == {True, False}


def test_a_canary_steers_a_share_of_conversations_and_all_listed_tasks(tmp_path):
    made_hook = hook(tmp_path, mode="canary", canary=0.3, canary_tasks=["arithmetic"])
    drawn_records = [plan(made_hook, chat(f"What is {n}?")) for n in range(2000)]
    assert sum(
        record.directive == "very_brief" for record in drawn_records
    ) / 2000 == pytest.approx(0.3, abs=0.03)
    assert {record.reason for record in drawn_records} == {"policy", "not_canary"}
    tagged_records = [
        plan(made_hook, chat(f"{n}?"), {"x-sprout-task": "arithmetic"}) for n in range(50)
    ]
    assert {record.directive for record in tagged_records} == {"very_brief"}


@pytest.mark.parametrize(
    ("demand", "at_l0"), [("0.9", 0.0), ("0.975", 0.5), ("1", 1.0), ("x", 1.0)]
)
def test_a_callers_quality_floor_mixes_in_l0(tmp_path, demand, at_l0):
    floors = {"floors": {"arithmetic": 0.95}}
    headers = {"x-sprout-floor": demand, "x-sprout-task": "arithmetic"}
    ignoring_hook = hook(tmp_path / "deaf", extra=floors)
    assert plan(ignoring_hook, CHAT, headers).directive == "very_brief"
    obeying_hook = hook(tmp_path, extra=floors, caller_headers=["floor", "task"])
    drawn_records = [plan(obeying_hook, chat(f"What is {n}?"), headers) for n in range(1000)]
    assert sum(record.directive == "none" for record in drawn_records) / 1000 == pytest.approx(
        at_l0, abs=0.05
    )


def test_rules_take_precedence_over_the_policy(tmp_path):
    rows = [
        {"name": "legal", "when": {"tenant": "legal-*"}, "forbid": True},
        {"name": "long", "when": {"min_characters": 100}, "force": "brief"},
        {"name": "watch", "when": {"headers": {"X-Env": "dev"}}, "mode": "shadow"},
        {"name": "strict", "when": {"task": "exam"}, "floor": 1.0},
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rows))
    made_hook = hook(tmp_path, rules=path, tenant_header="X-Tenant")
    cases = [
        (CHAT, {"x-tenant": "legal-eu"}, "legal", "rule", "none", True),
        (chat("a b" * 50), {}, "long", "rule", "brief", True),
        (CHAT, {"x-env": "dev"}, "watch", "policy", "very_brief", False),
        (CHAT, {"x-sprout-task": "exam"}, "strict", "policy", "none", True),
        (CHAT, {"x-tenant": "other"}, None, "policy", "very_brief", True),
    ]
    for body, headers, rule, reason, directive, applied in cases:
        record = plan(made_hook, body, headers)
        assert (record.rule, record.reason) == (rule, reason)
        assert (record.directive, record.applied) == (directive, applied)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"name": "a"}], "rule 1: give exactly one of forbid"),
        ([{"name": "a", "forbid": True, "floor": 1}], "rule 1: give exactly one"),
        ([{"name": "a b", "forbid": True}], "rule 1, name"),
        ([{"name": "a", "when": {"tenat": "x"}, "forbid": True}], "rule 1, when.tenat"),
        ([{"name": "a", "floor": 2}], "rule 1, floor"),
        ({"name": "a"}, "rules given"),
        ([{"name": "a", "forbid": True}] * 2, "give each its own"),
    ],
)
def test_a_wrong_rule_is_named_in_the_error(rows, message):
    with pytest.raises(ConfigError, match=message):
        check_rules(rows, "given")


def test_an_api_key_is_stored_only_as_a_hash(tmp_path):
    made_hook = hook(tmp_path, tenant_header="authorization")
    record = plan(made_hook, CHAT, {"authorization": "Bearer sk-secret"})
    assert record.tenant == plan(made_hook, CHAT, {"authorization": "Bearer sk-secret"}).tenant
    assert record.tenant != plan(made_hook, CHAT, {"authorization": "Bearer sk-other"}).tenant
    assert "secret" not in str(records(made_hook))


def test_a_reading_ages_and_is_replaced_by_the_mean_when_too_old():
    trace = synthetic_day()
    clock = [trace.end - 1800.0]
    grid = Grid(trace, lambda: clock[0])
    fresh = grid.current()
    assert fresh.reading.age_seconds == 0
    assert fresh.moment.g_per_kwh[0] == trace.g_per_kwh[-1]
    clock[0] += 3600
    assert grid.current().reading.age_seconds == 1800
    assert grid.current().moment.g_per_kwh[0] == trace.g_per_kwh[-1]
    clock[0] += 86400
    # Too old to use: the mean takes its place, and its rank among unknown hours is neutral.
    too_old = grid.current()
    assert too_old.reading.age_seconds == 1800 + 86400
    assert too_old.reading.step == "yearly_mean"
    assert too_old.moment.g_per_kwh[0] == pytest.approx(trace.g_per_kwh.mean())
    assert (too_old.moment.recent_place[0], too_old.moment.coming_place[0]) == (0.5, 0.5)


def test_a_changed_trace_is_reread_and_a_broken_one_ignored(tmp_path):
    path = tmp_path / "grid.csv"
    head = "timestamp_utc,zone,carbon_intensity_g_per_kwh\n"
    path.write_text(head + "2024-01-01T00:00:00Z,A,100\n2024-01-01T01:00:00Z,A,200\n")
    made_hook = hook(tmp_path, intensity=str(path), clock_start="2024-01-01T01:30")
    assert plan(made_hook).intensity_g_per_kwh == 200
    path.write_text(head + "nonsense\n")
    made_hook.refresh()
    assert plan(made_hook).intensity_g_per_kwh == 200
    path.write_text(head + "2024-01-01T00:00:00Z,A,100\n2024-01-01T01:00:00Z,A,300\n")
    made_hook.refresh()
    assert plan(made_hook).intensity_g_per_kwh == 300


def test_a_changed_bundle_is_loaded_completely_or_refused(tmp_path):
    made_hook = hook(tmp_path)
    first_version = plan(made_hook).policy_version
    made.bundle(tmp_path / "bundle", (50.0, 0.0, 0.0))
    made_hook.refresh()
    second = plan(made_hook)
    assert second.policy_version != first_version
    assert second.directive == "none"
    with (tmp_path / "bundle" / "policy.safetensors").open("ab") as file:
        file.write(b"x")
    (tmp_path / "bundle" / "manifest.json").touch()
    made_hook.refresh()
    assert plan(made_hook).policy_version == second.policy_version
    assert b'sprout_bundle_loads_total{result="refused"} 1.0' in made_hook.metrics.render()


def test_a_constant_intensity_is_used_and_labelled(tmp_path):
    made_hook = hook(tmp_path, intensity="300", clock_start=None)
    record = plan(made_hook)
    assert (record.intensity_g_per_kwh, record.intensity_step) == (300.0, "constant")
    assert record.intensity_age_seconds == 0


def test_lotteries_are_uniform_and_independent():
    salt = b"s" * 16
    lotteries = [
        draw_lottery(salt, identify(salt, [USER | {"content": str(n)}], SCOPE, UNNAMED, None), day)
        for n in range(1000)
        for day in range(4)
    ]
    numbers = np.array([lottery[1:] for lottery in lotteries])
    assert ((numbers >= 0) & (numbers < 1)).all()
    np.testing.assert_allclose(numbers.mean(axis=0), 0.5, atol=0.02)
    assert np.abs(np.corrcoef(numbers.T) - np.eye(3)).max() < 0.06
    salt = b"t" * 16
    other_salt = draw_lottery(
        salt, identify(salt, [USER | {"content": "0"}], SCOPE, UNNAMED, None), 0
    )
    assert other_salt.key != lotteries[0].key


def test_workers_share_the_choices_of_conversations(tmp_path):
    memory, other_memory = ConversationMemory(tmp_path / "m"), ConversationMemory(tmp_path / "m")
    memory.put(2**63 + 5, StickyChoice(2, 0.25, 7))
    assert other_memory.get(2**63 + 5, 7) == StickyChoice(2, 0.25, 7)
    assert other_memory.get(2**63 + 5, 8) is None
    assert other_memory.get(5, 7) is None


def test_a_decision_is_timed(tmp_path):
    before = time.time()
    record = plan(hook(tmp_path))
    assert before <= record.time <= time.time()
    assert 0 < record.decision_seconds <= record.seconds
