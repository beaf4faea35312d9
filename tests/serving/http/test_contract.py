"""The behaviour of every shape of the hook, inside or in front of any server."""

import json

import pytest

from agents.policy.network import Policy
from serving.hook.conversation import ConversationMemory
from tests.serving.hooks import CHAT, hook, keeper, metric, records
from tests.serving.shapes import SHAPES

USER = {"role": "user", "content": "Hi"}
COMPLETION = {"model": "made", "prompt": "<s>[INST] Hi [/INST]", "max_tokens": 5}
RESPONSE = {"model": "made", "input": "Hi"}
TEXT = "Always answer very briefly."
BODIES = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETION,
    "/v1/responses": RESPONSE,
    "/v1/messages": CHAT,
}


@pytest.fixture(params=SHAPES)
def shape_of(request):
    return SHAPES[request.param]


def recorded(made_hook):
    """Return the ledger's only row, which combines the decision and its outcome."""
    ledger_keeper = keeper(made_hook)
    ledger_keeper.step()
    ledger_keeper.close()
    (row,) = ledger_keeper.ledger.rows(NAMES)
    return dict(zip(NAMES, row, strict=True))


NAMES = (
    *("directive", "applied", "reason", "probability", "completion_tokens", "prompt_tokens"),
    *("outcome", "status", "energy_joules", "energy_method", "grams", "features", "mode"),
    *("lottery", "hold_out", "prompt", "response", "route", "policy_version"),
)


@pytest.mark.parametrize("route", BODIES)
@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_steered_answered_and_recorded(shape_of, made_hook, route, stream):
    if route not in getattr(shape_of, "routes", BODIES):
        pytest.skip(f"LiteLLM's callback does not steer {route}")
    body = BODIES[route] | ({"stream": True} if stream else {})
    with shape_of(made_hook) as shape:
        status, answer_headers, data = shape.ask(route, body)
        sent = shape.sent()
    assert status == 200
    assert b"Hel" in data
    assert TEXT in json.dumps(sent)
    texts = ("messages", "prompt", "instructions", "system")
    assert {k: v for k, v in sent.items() if k not in texts} == {
        k: v for k, v in body.items() if k not in texts
    }
    assert answer_headers["x-sprout-directive"] == "very_brief"
    assert answer_headers["x-sprout-reason"] == "policy"
    assert float(answer_headers["x-sprout-probability"]) > 0.99
    row = recorded(made_hook)
    assert (row["directive"], row["applied"], row["reason"]) == ("very_brief", True, "policy")
    assert (row["outcome"], row["status"], row["route"]) == ("completed", 200, route)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (3, 4)
    assert row["energy_joules"] > 0
    assert row["energy_method"] == "estimated"
    assert row["grams"] > 0
    assert row["features"]
    # Texts are stored only if the operator turns this on.
    assert row["prompt"] is None
    assert row["response"] is None


@pytest.mark.parametrize(
    ("changed", "headers", "reason"),
    [
        ({}, {"x-sprout-opt-out": "1"}, "opt_out"),
        ({"model": "another"}, {}, "unknown_model"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, {}, "format"),
        ({"response_format": {"type": "json_object"}}, {}, "format"),
        ({"messages": [USER, {"role": "assistant", "content": "He"}]}, {}, "format"),
        ({"messages": [{"role": "user", "content": "Why? Be brief."}]}, {}, "own_length"),
    ],
)
def test_requests_that_must_not_be_steered_are_sent_unchanged(
    shape_of, made_hook, changed, headers, reason
):
    body = CHAT | changed
    with shape_of(made_hook) as shape:
        status, answer_headers, _ = shape.ask("/v1/chat/completions", body, headers)
        assert shape.sent() == body
    assert status == 200
    assert answer_headers["x-sprout-directive"] == "none"
    assert answer_headers["x-sprout-reason"] == reason
    assert recorded(made_hook)["reason"] == reason


@pytest.mark.parametrize(
    ("mode", "sent_as_is", "directive"),
    [("off", True, "none"), ("shadow", True, "very_brief"), ("on", False, "very_brief")],
)
def test_off_and_shadow_send_the_request_unchanged_and_on_steers_it(
    shape_of, tmp_path, mode, sent_as_is, directive
):
    made_hook = hook(tmp_path, mode=mode)
    with shape_of(made_hook) as shape:
        assert shape.ask("/v1/chat/completions", CHAT)[0] == 200
        assert (shape.sent() == CHAT) is sent_as_is
    row = recorded(made_hook)
    assert (row["mode"], row["directive"]) == (mode, directive)
    assert row["applied"] is (mode != "shadow")


def test_a_failing_policy_leaves_the_request_unchanged(shape_of, made_hook, monkeypatch):
    monkeypatch.setattr(Policy, "probabilities_of", lambda self, observation: 1 / 0)
    with shape_of(made_hook) as shape:
        status, answer_headers, _ = shape.ask("/v1/chat/completions", CHAT)
        assert shape.sent() == CHAT
    assert (status, answer_headers["x-sprout-reason"]) == (200, "failed")
    assert metric(made_hook, 'sprout_fail_open_total{reason="failed"}') == 1
    assert recorded(made_hook)["outcome"] == "completed"


def test_without_a_bundle_requests_are_sent_unchanged(shape_of, tmp_path):
    made_hook = hook(tmp_path)
    (tmp_path / "bundle" / "manifest.json").unlink()
    made_hook = type(made_hook)(
        made_hook.config,
        type(made_hook.policies)(made_hook.config.folders),
        *(made_hook.grid, made_hook.control, ConversationMemory(), made_hook.metrics),
    )
    with shape_of(made_hook) as shape:
        status, answer_headers, _ = shape.ask("/v1/chat/completions", CHAT)
        assert shape.sent() == CHAT
    assert (status, answer_headers["x-sprout-reason"]) == (200, "no_bundle")
    assert metric(made_hook, 'sprout_fail_open_total{reason="no_bundle"}') == 1


def test_upstreams_refusal_is_recorded(shape_of, made_hook):
    with shape_of(made_hook) as shape:
        shape.upstream.mode = "refuse"
        assert shape.ask("/v1/chat/completions", CHAT)[0] == 429
    row = recorded(made_hook)
    assert row["status"] == 429
    assert row["outcome"] == "completed"


def test_prompts_and_answers_are_stored_if_the_operator_enables_it(shape_of, tmp_path):
    made_hook = hook(tmp_path, store_prompts=True)
    with shape_of(made_hook) as shape:
        shape.ask("/v1/chat/completions", CHAT)
    (row, *_) = records(made_hook)
    assert json.loads(row["prompt"]) == CHAT["messages"]
    if shape_of is not SHAPES["decide"]:
        assert row["response"] == "Hello"
