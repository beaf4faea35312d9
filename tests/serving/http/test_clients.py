"""Real clients against the gateway and the embedded Llama; LiteLLM's proxy with the callback."""

import asyncio
import json
import os
import shutil
import sys

import openai
import pytest

from experiments.llama.server import llama_server
from experiments.processes import free_port, loopback, start_process
from serving.http.relay import Relay
from serving.ledger.database import Ledger
from serving.processes.gateway import Gateway
from tests import made
from tests.serving.hooks import hook, keeper, post, waited
from tests.serving.upstream import Upstream, served

MODEL = "sprout-llama-2m"
MESSAGES = [{"role": "user", "content": "What is 2 + 3?"}]
TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "a", "schema": {"type": "object", "properties": {}}},
}


@pytest.fixture
def steering(llama, tmp_path):
    made_hook = hook(tmp_path, model=MODEL)
    with served(Gateway(made_hook, Relay(llama.url))) as url:
        yield made_hook, url


def rows(made_hook, *names):
    ledger_keeper = keeper(made_hook)
    ledger_keeper.step()
    ledger_rows = list(ledger_keeper.ledger.rows(names))
    ledger_keeper.close()
    return ledger_rows


def test_the_openai_sdk_gets_steered_answers_with_estimates(steering):
    made_hook, url = steering
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="sk-user", max_retries=0)
    arguments = {"model": MODEL, "messages": MESSAGES, "max_tokens": 64}
    raw = client.chat.completions.with_raw_response.create(**arguments)
    completion = raw.parse()
    assert raw.headers["x-sprout-directive"] == "very_brief"
    assert completion.choices[0].message.content
    pieces = list(client.chat.completions.create(**arguments, stream=True))
    streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert streamed == completion.choices[0].message.content
    # The usage holds the energy, marked as an estimate, and the id of the decision.
    usage = next(piece.usage for piece in pieces if piece.usage is not None).model_dump()
    assert usage["sprout"]["method"] == "estimated"
    assert usage["sprout"]["energy_joules"] > 0
    ledger_rows = rows(made_hook, "decision_id", "completion_tokens", "outcome")
    assert ledger_rows[1][0] == usage["sprout"]["decision_id"]
    assert [row[1] for row in ledger_rows] == [completion.usage.completion_tokens] * 2
    # Requests for machine-readable output are not steered; the server answers or refuses them.
    for form in ({"tools": [TOOL]}, {"response_format": SCHEMA}):
        try:
            answer = client.chat.completions.with_raw_response.create(**arguments, **form)
            headers = answer.headers
        except openai.APIStatusError as error:
            headers = error.response.headers
        assert headers["x-sprout-reason"] == "format"


def test_the_openai_sdk_gets_steered_responses_from_the_llama(steering):
    made_hook, url = steering
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="sk-user", max_retries=0)
    arguments = {"model": MODEL, "input": MESSAGES[0]["content"], "max_output_tokens": 64}
    # This server streams unless it is told not to.
    raw = client.responses.with_raw_response.create(**arguments, stream=False)
    assert raw.headers["x-sprout-directive"] == "very_brief"
    events = list(client.responses.create(**arguments, stream=True))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == raw.parse().output_text
    outcomes = rows(made_hook, "outcome", "completion_tokens", "tokens_method")
    assert [row[0] for row in outcomes] == ["completed"] * 2
    assert outcomes[0][1] == raw.parse().usage.output_tokens


def test_the_asynchronous_openai_sdk_gets_equal_concurrent_and_streamed_answers(steering):
    _, url = steering

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="sk", max_retries=0) as client:
            arguments = {"model": MODEL, "messages": MESSAGES, "max_tokens": 64}
            completions = await asyncio.gather(
                *(client.chat.completions.create(**arguments) for _ in range(8))
            )
            stream = await client.chat.completions.create(**arguments, stream=True)
            text = "".join([p.choices[0].delta.content or "" async for p in stream if p.choices])
            return {answer.choices[0].message.content for answer in completions} | {text}

    assert len(asyncio.run(ask())) == 1


def test_the_litellm_sdk_gets_equal_streamed_and_unstreamed_answers(steering, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    # For a model with "llama-2" in its name, LiteLLM would look for a tokenizer on the network.
    monkeypatch.setattr(litellm, "disable_hf_tokenizer_download", True)
    _, url = steering
    arguments = {"model": f"openai/{MODEL}", "messages": MESSAGES, "max_tokens": 64}
    connection = {"api_base": f"{url}/v1", "api_key": "sk", "num_retries": 0}
    completion = litellm.completion(**arguments, **connection)
    stream = litellm.completion(**arguments, **connection, stream=True)
    text = "".join(piece.choices[0].delta.content or "" for piece in stream)
    assert text == completion.choices[0].message.content


@pytest.mark.long
@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_the_middleware_steers_and_records_inside_the_model_server(tmp_path, engine):
    if engine == "vllm" and shutil.which("vllm") is None:
        pytest.skip("vLLM is not installed here")
    made.bundle(tmp_path / "bundle", model=MODEL)
    environment = {
        "SPROUT_POLICY": str(tmp_path / "bundle"),
        "SPROUT_STATE": str(tmp_path / "state"),
        "SPROUT_CLOCK_START": "2024-01-02T00:00",
        "SPROUT_MODE": "on",
        "SPROUT_HOLD_OUT": "0",
    }
    server_options = {
        "middleware": ["serving.middleware.SproutMiddleware"],
        "environment": environment,
    }
    with llama_server(engine=engine, log=tmp_path / "llama.log", **server_options) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk", max_retries=0)
        arguments = {"model": MODEL, "messages": MESSAGES, "max_tokens": 64}
        raw = client.chat.completions.with_raw_response.create(**arguments)
        assert raw.headers["x-sprout-directive"] == "very_brief"
        unsteered = client.chat.completions.create(
            **arguments, extra_headers={"x-sprout-opt-out": "1"}
        )
        assert raw.parse().usage.completion_tokens < unsteered.usage.completion_tokens
        pieces = list(client.chat.completions.create(**arguments, stream=True))
        text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
        assert text == raw.parse().choices[0].message.content
        assert client.models.list().object == "list"
        ledger = Ledger(f"sqlite:///{tmp_path / 'state' / 'ledger.db'}")
        ledger.migrate()
        columns = ("reason", "outcome", "completion_tokens")
        assert waited(lambda: len(list(ledger.rows(columns))) == 3)
        ledger_rows = list(ledger.rows(columns))
    assert [r[:2] for r in ledger_rows] == [
        (r, "completed") for r in ("policy", "opt_out", "policy")
    ]
    steered_tokens = raw.parse().usage.completion_tokens
    assert [r[2] for r in ledger_rows] == [
        steered_tokens,
        unsteered.usage.completion_tokens,
        steered_tokens,
    ]


CONFIG = """
model_list:
  - model_name: made
    litellm_params: {{model: openai/made, api_base: "{upstream}/v1", api_key: sk-upstream}}
litellm_settings: {{callbacks: sprout_callback.callback, num_retries: 0}}
general_settings: {{dangerously_permit_weak_or_unset_master_key: true}}
"""
CALLBACK = """
from serving.litellm_callback import SproutCallback

callback = SproutCallback()
"""


@pytest.mark.long
def test_litellms_proxy_steers_and_records_through_the_callback(tmp_path):
    made.bundle(tmp_path / "bundle")
    (tmp_path / "sprout_callback.py").write_text(CALLBACK)
    port, upstream = free_port(), Upstream()
    environment = {
        "SPROUT_POLICY": str(tmp_path / "bundle"),
        "SPROUT_STATE": str(tmp_path / "state"),
        "SPROUT_CLOCK_START": "2024-01-02T00:00",
        "SPROUT_MODE": "on",
        "SPROUT_HOLD_OUT": "0",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MODE": "PRODUCTION",
    }
    with served(upstream) as url:
        (tmp_path / "config.yaml").write_text(CONFIG.format(upstream=url))
        command = [sys.executable, "-P", "-m", "litellm.proxy.proxy_cli"]
        flags = ["--config", str(tmp_path / "config.yaml"), "--host", "127.0.0.1"]
        with start_process(
            "LiteLLM",
            [*command, *flags, "--port", str(port)],
            loopback(port, "/health/liveliness"),
            environment=os.environ | environment,
            start_seconds=120,
        ) as proxy:
            body = {"model": "made", "messages": [{"role": "user", "content": "Hi"}]}
            status, _, headers = post(proxy.url, body)
            assert status == 200
            assert headers["x-sprout-directive"] == "very_brief"
            sent = json.loads(upstream.received[-1][3])
            assert sent["messages"][0]["content"] == "Always answer very briefly."
            assert "sprout" not in json.dumps(sent).lower().replace("sprout_callback", "")
            status, data, headers = post(proxy.url, body | {"stream": True})
            assert (status, headers["x-sprout-directive"]) == (200, "very_brief")
            assert data.rstrip().endswith(b"data: [DONE]")
            # A request that opts out passes the proxy unchanged.
            status, _, headers = post(proxy.url, body, {"x-sprout-opt-out": "1"})
            assert (status, headers["x-sprout-reason"]) == (200, "opt_out")
            assert json.loads(upstream.received[-1][3])["messages"] == body["messages"]
            ledger = Ledger(f"sqlite:///{tmp_path / 'state' / 'ledger.db'}")
            ledger.migrate()
            columns = ("reason", "outcome", "completion_tokens")
            assert waited(lambda: len(list(ledger.rows(columns))) == 3)
            ledger_rows = list(ledger.rows(columns))
    assert [r[0] for r in ledger_rows] == ["policy", "policy", "opt_out"]
    assert {r[1] for r in ledger_rows} == {"completed"}
    assert ledger_rows[0][2] == 4
