"""GET /readyz says what an operator should look at, and never fails for the upstream."""

import json
import time
import urllib.request

import pytest

from envs.carbon.intensity import iso
from serving.http import readiness
from serving.http.asgi import respond
from serving.http.relay import Relay
from serving.http.routing import Upstreams
from serving.ledger.replica import write_problem
from serving.processes.gateway import Gateway
from tests.serving.hooks import hook
from tests.serving.upstream import served

VALIDATION = {
    "floors_kept": False,
    "worst_margin": -0.02,
    "missed": {"gsm8k (untagged)": 0.02, "mmlu": 0.01},
}
AWAY = "http://127.0.0.1:9"


class Listing:
    """An upstream that lists models, or answers anything else."""

    def __init__(self, body, status=200):
        self.body, self.status, self.asked = body, status, 0

    async def __call__(self, scope, receive, send):
        self.asked += 1
        await respond(send, self.status, self.body)


def listing(*models):
    return json.dumps({"data": [{"id": model} for model in models]}).encode()


def ready(made_hook, upstreams, times=1):
    with served(Gateway(made_hook, Relay(upstreams))) as url:
        for _ in range(times):
            with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:
                assert answer.status == 200
                state = json.loads(answer.read())
    return state


def test_all_is_well(tmp_path):
    made_hook = hook(tmp_path, intensity="300", clock_start=None)
    upstream = Listing(listing("made", "other"))
    with served(upstream, lifespan="off") as url:
        state = ready(made_hook, url, times=5)
    assert upstream.asked == 1
    assert state["problems"] == []
    assert (state["status"], state["mode"], state["off"]) == ("ready", "on", False)
    assert state["bundles"][0]["served"] is True
    assert state["carbon_intensity"]["step"] == "constant"


@pytest.mark.parametrize(
    ("body", "served_model", "problem"),
    [
        (listing("other"), False, "is for model 'made', and its upstream lists 'other'"),
        (b"no", None, None),
        (b"{}", None, None),
    ],
)
def test_a_bundle_for_a_model_that_is_not_served_is_named(tmp_path, body, served_model, problem):
    made_hook = hook(tmp_path, intensity="300", clock_start=None)
    with served(Listing(body), lifespan="off") as url:
        state = ready(made_hook, url)
    assert state["bundles"][0]["served"] is served_model
    assert [problem in text for text in state["problems"]] == ([True] if problem else [])


def test_a_model_that_was_not_listed_stays_unsteered_while_the_list_is_unknown(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(readiness, "CACHE_SECONDS", 0.0)
    made_hook = hook(tmp_path, intensity="300", clock_start=None)
    upstream = Listing(listing("other"))
    with served(upstream, lifespan="off") as url:
        assert "*" not in ready(made_hook, url)["not_steered"]
        assert "made" in made_hook.suspensions
        upstream.body = b"busy"
        ready(made_hook, url)
        assert "made" in made_hook.suspensions
        # As Ollama lists it.
        upstream.body = listing("made:latest")
        assert ready(made_hook, url)["bundles"][0]["served"] is True
        assert "made" not in made_hook.suspensions


def test_an_operator_can_let_a_server_take_any_name(tmp_path):
    made_hook = hook(tmp_path, intensity="300", clock_start=None, on_model_change="warn")
    with served(Listing(listing("other")), lifespan="off") as url:
        state = ready(made_hook, url)
    assert state["not_steered"] == {}
    assert "which its upstream does not list (--on-model-change warn)" in state["problems"][0]


def test_an_upstream_whose_base_url_is_wrong_is_named(tmp_path):
    made_hook = hook(tmp_path, intensity="300", clock_start=None)
    with served(Listing(b"{}", 404), lifespan="off") as url:
        problems = ready(made_hook, url)["problems"]
    assert problems == [
        "upstream (default): answers GET /v1/models with 404; is its base URL right?"
    ]


def test_an_upstream_that_is_away_is_reported_and_no_failure(tmp_path):
    made_hook = hook(tmp_path, extra={"validation": VALIDATION})
    with served(Listing(listing("made")), lifespan="off") as url:
        state = ready(made_hook, Upstreams(url, {"large": AWAY}))
    problems = "\n".join(state["problems"])
    assert "upstream (large): does not answer: ClientConnectorError: Connection refused" in problems
    assert "missed in training: gsm8k (untagged) by 0.020, mmlu by 0.010; its answers" in problems
    assert "a synthetic day" in problems
    assert AWAY not in json.dumps(state)


def test_a_ledger_that_cannot_be_used_and_an_intensity_that_is_not_known_are_named(tmp_path):
    made_hook = hook(tmp_path, intensity="0.3", clock_start=None)
    write_problem(made_hook.config.state, "the ledger is locked")
    problems = ready(made_hook, AWAY)["problems"]
    assert "the ledger is locked; records wait in the journal" in problems
    assert any("a mean of 0.3 gCO2e/kWh" in problem for problem in problems)
    write_problem(made_hook.config.state, None)
    assert not any("locked" in problem for problem in ready(made_hook, AWAY)["problems"])
    old = time.time() // 3600 * 3600 - 86400
    rows = [f"{iso(old - 3600 * h)},X,300" for h in range(23, -1, -1)]
    head = "timestamp_utc,zone,carbon_intensity_g_per_kwh"
    (tmp_path / "grid.csv").write_text("\n".join([head, *rows]) + "\n")
    aged = hook(tmp_path / "aged", intensity=str(tmp_path / "grid.csv"), clock_start=None)
    assert (
        "carbon intensity: not known now, so the mean stands in for it"
        in (ready(aged, AWAY)["problems"])
    )


def test_the_kill_switch_and_a_missing_bundle_are_named(tmp_path):
    made_hook = hook(tmp_path)
    (tmp_path / "bundle" / "manifest.json").write_text("{")
    broken = hook(tmp_path / "b", intensity="300", clock_start=None)
    broken.control.kill.merge(broken.control.kill.state.engage("command"))
    broken.refresh()
    state = ready(broken, AWAY)
    assert state["mode"] == "off"
    assert any(text.startswith("the kill switch is engaged") for text in state["problems"])
    made_hook.policies.refresh()
    assert ready(made_hook, AWAY)["bundles_refused"] == 1
