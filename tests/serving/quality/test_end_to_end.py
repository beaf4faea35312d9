"""The guard end to end, every part real: it withdraws a policy that hurts, and gives it back.

The embedded Llama, a relay in front of it, a gateway, a judge and a webhook's receiver.
"""

import asyncio
import json
import sys

import openai
import pytest

from envs.requests.workload import generate_requests
from experiments.processes import free_port, loopback, start_process
from serving.ledger.quality.store import QualityStore
from tests import made
from tests.serving.hooks import waited
from tests.serving.launch import serving
from tests.serving.quality.test_webhook import SECRET, receiver

TASK, FLOOR = "recall", 0.9
SEED, QUESTIONS = 5, 500
# Requests while all is well, and at most until the guard has acted on a change.
GOOD, MOST_BROKEN, MOST_MENDED = 2000, 300, 1000
AT_ONCE = 8


def module(name, *arguments):
    return [sys.executable, "-m", f"tests.serving.quality.{name}", *map(str, arguments)]


class Client:
    """Sends conversations with the `openai` client."""

    def __init__(self, url, model):
        self._url, self._model = url, model
        requests = generate_requests(QUESTIONS, seed=SEED)
        self._questions = [r.messages[-1]["content"] for r in requests if r.task == TASK]
        self.sent = 0

    def send(self, count):
        """Send requests; return the directive and the reason of each."""
        return asyncio.run(self._send(count))

    async def _send(self, count):
        slots = asyncio.Semaphore(AT_ONCE)
        async with openai.AsyncOpenAI(
            base_url=f"{self._url}/v1", api_key="none", max_retries=0, timeout=60
        ) as client:

            async def one(number):
                async with slots:
                    raw = await client.chat.completions.with_raw_response.create(
                        model=self._model,
                        messages=[{"role": "user", "content": self._questions[number % QUESTIONS]}],
                        max_tokens=100,
                        temperature=0,
                        extra_headers={
                            "x-sprout-task": TASK,
                            "x-sprout-conversation": f"c{number}",
                        },
                    )
                    return raw.headers["x-sprout-directive"], raw.headers["x-sprout-reason"]

            first, self.sent = self.sent, self.sent + count
            return await asyncio.gather(*(one(first + n) for n in range(count)))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_task_whose_brief_answers_turn_wrong_goes_to_l0_until_they_are_right_again(
    llama, tmp_path
):
    made.bundle(
        tmp_path / "bundle",
        (0.0, 50.0, 0.0),
        model=llama.model,
        tasks=(TASK,),
        extra={"floors": {TASK: FLOOR}},
    )
    relay, judge = free_port(), free_port()

    def relaying(answers):
        command = module("relay_server", relay, llama.url, answers)
        return start_process("the relay", command, loopback(relay, "/v1/models"))

    judging = start_process(
        "the judge",
        module("reference_judge_server", judge, SEED, QUESTIONS),
        loopback(judge, "/v1/models"),
    )
    with receiver() as (webhook, alarms), judging:
        flags = [
            *("--judge", f"http://127.0.0.1:{judge}", "--judge-model", "right"),
            *("--sample", 1, "--judge-delay", 0, "--judge-energy", 100),
            *("--alarm-webhook", webhook),
        ]
        right = relaying("right")
        right.__enter__()
        try:
            with serving(
                f"http://127.0.0.1:{relay}",
                tmp_path,
                *map(str, flags),
                secrets={"SPROUT_WEBHOOK_SECRET": SECRET},
            ) as served:
                client = Client(served.url, llama.model)

                def judged_all():
                    return served.metric("sprout_quality_samples_total") >= client.sent

                # Brief answers are as right as L0's: the guard leaves them alone.
                assert set(client.send(GOOD)) == {("brief", "policy")}
                assert waited(judged_all, 300)
                assert served.metric("sprout_guard_moves_total") == 0

                # Another server takes the place of this one.
                right.__exit__(None, None, None)
                with relaying("wrong"):
                    broken = 0
                    while ("none", "guard") not in client.send(10) and broken < MOST_BROKEN:
                        broken += 10
                        assert waited(judged_all, 300)
                    assert broken < MOST_BROKEN
                    assert waited(lambda: alarms)
                    assert alarms[0][1]["type"] == "quality.breached"
                    assert alarms[0][1]["data"]["task"] == TASK
                    assert alarms[0][1]["data"]["to"] == "l0"
                    assert alarms[0][1]["data"]["ratio"] < 0.3
                    # As long as that server is there, its brief answers reach nobody.
                    assert set(client.send(200)) == {("none", "guard")}
                    assert waited(judged_all, 300)

                right = relaying("right")
                right.__enter__()
                mended = 0
                while ("brief", "policy") not in client.send(50) and mended < MOST_MENDED:
                    mended += 50
                    assert waited(judged_all, 300)
                assert waited(lambda: len(alarms) == 2)
                assert alarms[1][1]["type"] == "quality.returned"
                assert set(client.send(100)) == {("brief", "policy")}
                events = QualityStore(served.ledger).events()
                assert [event["reason"] for event in events] == ["breached", "returned"]
                print(json.dumps({"broken": broken, "mended": mended, "events": events}))
        finally:
            right.__exit__(None, None, None)
