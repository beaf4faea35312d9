import json
import subprocess
import sys

import numpy as np
import pytest

from envs.backends.live import LiveBackend
from envs.energy.meters.tokens import TokenMeter
from envs.errors import UpstreamError
from envs.requests.directive import DEFAULT_CATALOGUE
from envs.requests.workload import generate_requests
from envs.upstream import API_KEY_VARIABLE, Upstream
from tests.serving.upstream import Upstream as Fake
from tests.serving.upstream import served


@pytest.fixture
def fake():
    fake = Fake()
    with served(fake) as fake.url:
        yield fake


def test_a_remote_servers_energy_is_tokens_times_joules_and_labelled_estimated(fake):
    requests = generate_requests(2, seed=0)
    with Upstream(fake.url, "made") as upstream:
        meter = TokenMeter(upstream, 2.5)
        outcomes = LiveBackend(upstream, meter, DEFAULT_CATALOGUE, requests).play(
            np.arange(8), np.zeros(8, dtype=int)
        )
    # The fake generates 4 tokens an answer.
    assert outcomes.energy_joules == pytest.approx(np.full(8, 4 * 2.5))
    assert outcomes.energy_method == "estimated"
    assert outcomes.responses == ("Hello",) * 8


def test_the_api_key_goes_upstream_and_the_directive_into_the_body(fake, monkeypatch):
    monkeypatch.setenv(API_KEY_VARIABLE, "sk-ours")
    with Upstream(fake.url, "made") as upstream:
        backend = LiveBackend(
            upstream, TokenMeter(upstream, 1.0), DEFAULT_CATALOGUE, generate_requests(1, seed=0)
        )
        backend.play(np.array([0]), np.array([1]))
    _, path, headers, body = fake.received[-1]
    assert path == "/v1/chat/completions"
    assert headers[b"authorization"] == b"Bearer sk-ours"
    payload = json.loads(body)
    assert payload["messages"][0]["content"] == DEFAULT_CATALOGUE[1].text
    assert payload["temperature"] == 0
    assert set(payload) == {"model", "messages", "max_tokens", "temperature"}


def test_a_refusal_and_an_absent_server_are_named_in_the_error(fake, monkeypatch):
    monkeypatch.setenv(API_KEY_VARIABLE, "sk-ours")
    fake.mode = "refuse"
    with Upstream(fake.url, "made") as upstream, pytest.raises(UpstreamError) as refusal:
        upstream.chat([{"messages": []}])
    assert f"{fake.url}/v1/chat/completions answered 429" in str(refusal.value)
    assert "sk-ours" not in str(refusal.value)
    with (
        Upstream("http://127.0.0.1:9", "made") as upstream,
        pytest.raises(UpstreamError) as absence,
    ):
        upstream.chat([{"messages": []}])
    assert "http://127.0.0.1:9 failed" in str(absence.value)


def test_a_server_that_lists_no_model_needs_the_model_flag(fake):
    with Upstream(fake.url) as upstream, pytest.raises(UpstreamError, match="--model"):
        upstream.chat([{"messages": []}])


def test_a_program_that_fails_without_closing_the_client_ends_with_its_own_error(fake):
    program = (
        "import sys\n"
        "from envs.upstream import Upstream\n"
        "upstream = Upstream(sys.argv[1], 'made').open()\n"
        "cycle = [upstream]\n"
        "cycle.append(cycle)\n"
        "raise RuntimeError('of the program')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, fake.url], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert "RuntimeError: of the program" in ended.stderr
