"""Floors changed at run time, end to end on the embedded Llama: quality and tokens follow."""

import json
import time
import urllib.request

import openai
import pytest

from envs.backends.live import LiveBackend
from envs.carbon.csv_traces import synthetic_day
from envs.energy.meters.choose import choose_meter
from envs.requests.directive import DEFAULT_CATALOGUE
from envs.requests.quality import correctness
from envs.requests.workload import generate_requests
from envs.upstream import Upstream
from experiments.cli import main
from experiments.hook_process import start_hook
from experiments.record.profile import record
from experiments.tracking import NullRun
from experiments.train.job import TrainingJob
from tests import made

TASK = "arithmetic"
LOW, HIGH = 0.4, 0.99
REQUESTS = [r for r in generate_requests(12, seed=11) if r.task == TASK]


@pytest.fixture(scope="module")
def bundle(llama, tmp_path_factory):
    """Return the folder of a bundle that was trained on short sums of the live server."""
    folder = tmp_path_factory.mktemp("floors")
    with Upstream(llama.url, llama.model) as upstream:
        requests = [r for r in generate_requests(50, seed=1) if r.task == TASK]
        backend = LiveBackend(upstream, choose_meter(llama.url), DEFAULT_CATALOGUE, requests)
        profile = record(backend, DEFAULT_CATALOGUE, llama.model, folder / "profile.parquet")
    config = made.quick(start_batches=300, replay_steps=0, live_steps=0)
    job = TrainingJob(profile, DEFAULT_CATALOGUE, synthetic_day(), {TASK: 0.7}, config)
    job.run(folder / "bundle", NullRun())
    return folder / "bundle"


class Service:
    """A gateway in front of the embedded Llama, and a client that opens conversations."""

    def __init__(self, gateway, state, model):
        self.url, self._model = gateway.url, model
        self.ledger = f"sqlite:///{state / 'ledger.db'}"
        self._client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)
        self._opened = 0

    def measure(self, **headers):
        """Return share of right answers, mean tokens and the last decision's id."""
        right, tokens = [], []
        for request in REQUESTS:
            self._opened += 1
            named = {"x-sprout-task": TASK, "x-sprout-conversation": f"c{self._opened}"}
            raw = self._client.chat.completions.with_raw_response.create(
                model=self._model,
                messages=list(request.messages),
                max_tokens=100,
                extra_headers=named | headers,
            )
            answer = raw.parse()
            text = answer.choices[0].message.content
            right.append(correctness(TASK, text, request.reference))
            tokens.append(answer.usage.completion_tokens)
        return (
            sum(right) / len(right),
            sum(tokens) / len(tokens),
            raw.headers["x-sprout-decision-id"],
        )

    def wait_for(self, holds):
        """Wait until the gateway's state holds, 2 s at most."""
        deadline = time.monotonic() + 2.0
        while True:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                if holds(json.load(answer)):
                    return
            assert time.monotonic() < deadline, "the change did not arrive within 2 s"
            time.sleep(0.05)

    def wait_for_floor(self, floor):
        self.wait_for(lambda state: state["bundles"][0]["floors"] == {TASK: floor})


@pytest.fixture
def serve(llama, bundle, tmp_path):
    """Return a function that starts a gateway with further flags, as a context."""
    from contextlib import contextmanager

    @contextmanager
    def started(*flags):
        state = tmp_path / "state"
        common = ("--clock-start", "2024-01-02T12:00", "--seed", "0", "--state", str(state))
        with start_hook(llama.url, bundle, (*common, *flags)) as gateway:
            yield Service(gateway, state, llama.model)

    return started


def assert_dearer(low, high):
    """Check that answers under the higher floor are longer and more often right."""
    assert high[1] > 1.5 * low[1]
    assert high[0] > low[0] + 0.2


def by_file(serve, tmp_path):
    path = tmp_path / "floors.yaml"
    path.write_text(f"{TASK}: {LOW}")
    with serve("--floor", str(path)) as service:
        low = service.measure()
        path.write_text(f"{TASK}: {HIGH}")
        service.wait_for_floor(HIGH)
        return low, service.measure(), service.ledger


def by_flag(serve, tmp_path):
    with serve("--floor", str(LOW)) as service:
        low = service.measure()
    with serve("--floor", f"{TASK}={HIGH}") as service:
        return low, service.measure(), service.ledger


def by_setting(serve, tmp_path):
    with serve() as service:
        assert main(["floor", f"{TASK}={LOW}", "--ledger", service.ledger]) == 0
        service.wait_for_floor(LOW)
        low = service.measure()
        assert main(["floor", str(HIGH), "--clear", TASK, "--ledger", service.ledger]) == 0
        service.wait_for_floor(HIGH)
        return low, service.measure(), service.ledger


def by_rule(serve, tmp_path):
    rules = tmp_path / "rules.yaml"
    with serve("--floor", str(LOW)) as service:
        low = service.measure()
        rules.write_text(f"- {{name: exams, when: {{task: {TASK}}}, floor: {HIGH}}}")
        changed = time.monotonic()
        assert main(["rules", "set", "--rules", str(rules), "--ledger", service.ledger]) == 0
        # Nothing but a request shows that a rule has arrived.
        while time.monotonic() < changed + 2.0:
            time.sleep(0.1)
        return low, service.measure(), service.ledger


def by_header(serve, tmp_path):
    with serve("--floor", str(LOW), "--caller-headers", "task,conversation,floor") as service:
        low = service.measure()
        return low, service.measure(**{"x-sprout-floor": str(HIGH)}), service.ledger


@pytest.mark.long
@pytest.mark.parametrize("change", [by_setting, by_flag, by_file, by_rule, by_header])
def test_a_floor_that_is_raised_makes_answers_longer_and_better(
    change, serve, bundle, tmp_path, capsys
):
    low, high, ledger = change(serve, tmp_path)
    assert_dearer(low, high)
    # The gateway has stopped, so its ledger is complete.
    flags = ["--decision", high[2], "--ledger", ledger]
    assert main(["explain", str(bundle), *flags]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "the price of quality is" in text
    assert f"for the floor {HIGH}" in text
