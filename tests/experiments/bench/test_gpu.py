"""`sprout bench gpu` ends in time, and what it has found outlives what fails."""

import asyncio
import json
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from envs.energy.attribution import Attribution
from envs.errors import UpstreamError
from experiments.bench.gpu import command as gpu
from experiments.bench.gpu.runs import Server, lone_requests, measure, mixture, spread
from experiments.cli import main
from experiments.llama import random_weights
from experiments.record.metering import Question, play_for, timed
from tests import made
from tests.experiments.record.test_calibrate import Steady
from tests.serving.upstream import served


class Slow:
    """Streams 20 tokens a second to each request; says usage when it is through."""

    def __init__(self):
        self.left = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
                if kind.endswith("shutdown"):
                    return
        body = json.loads((await receive())["body"])
        gone = asyncio.create_task(self._gone(receive))
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(body["max_tokens"]):
            await asyncio.sleep(0.05)
            if gone.done():
                self.left += 1
                return
            await self._event(send, [{"index": 0, "delta": {"content": "x"}}])
        prompt = 3 + len(body["messages"][0]["content"].split())
        usage = {"prompt_tokens": prompt, "completion_tokens": body["max_tokens"]}
        await self._event(send, [], {**usage, "total_tokens": sum(usage.values())})
        gone.cancel()
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _gone(self, receive):
        while (await receive())["type"] != "http.disconnect":
            pass

    async def _event(self, send, choices, usage=None):
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "made"}
        chunk |= {"choices": choices, "usage": usage}
        data = f"data: {json.dumps(chunk)}\n\n".encode()
        await send({"type": "http.response.body", "body": data, "more_body": True})


def server(url, meter=None):
    attribution = Attribution("shared", idle_watts=0.0, fit_seconds=1.0)
    return Server(url, "made", meter or Steady(), attribution, 0.1)


# Answers of up to 100 s, as on a server whose host is the bottleneck.
ASKED = {
    "none": [Question(10, 8), Question(10, 2000)],
    "brief": [Question(12, 8), Question(12, 1000)],
}


def test_what_has_not_ended_in_time_is_cut_off_and_counted():
    with served(slow := Slow()) as url:
        began = time.monotonic()
        found = play_for(url, "made", 4, timed(1.5, ASKED["none"], 0), 1.5)
        assert time.monotonic() - began < 5
        deadline = time.monotonic() + 5
        while slow.left < len(found.cut) and time.monotonic() < deadline:
            time.sleep(0.05)
    # The server was told: it does not go on for nobody.
    assert slow.left == len(found.cut) > 0
    assert found.ended
    for question, activity in found.all:
        assert activity.prompt_tokens == question.prompt_tokens + 3
        assert activity.start < activity.first <= activity.end
    assert {a.completion_tokens for _, a in found.ended} == {8}
    for _, activity in found.cut:
        passed = activity.end - activity.first
        assert activity.completion_tokens == pytest.approx(1 + passed / 0.05, rel=0.2, abs=2)


def test_every_phase_ends_in_time_however_long_answers_are():
    with served(Slow()) as url:
        began = time.monotonic()
        cell = measure(server(url), "none", ASKED["none"], 4, 1.0)
        mixed = mixture(server(url), ASKED, 4, 1.0, {"none": 10.0, "brief": 10.0})
        lone = lone_requests(server(url), [*ASKED["none"], *ASKED["brief"] * 1000], 1.0)
        assert time.monotonic() - began < 10
    assert cell.cut > 0
    assert cell.seconds == pytest.approx(1.0, abs=0.6)
    assert cell.off < 1e-6
    # Four at once at 20 tokens/s, and 1,004 tokens a request on the mean, whichever have ended.
    assert cell.tokens_per_second == pytest.approx(80, rel=0.4)
    assert cell.joules_per_request == pytest.approx(1004 * cell.joules_per_token)
    # The first of them took .4 s, the second would take 100.
    assert lone["requests"] == 1
    assert set(mixed) == {"none", "brief"}


def test_a_server_that_answers_nothing_ends_in_time_too():
    async def mute(scope, receive, send):
        if scope["type"] == "lifespan":
            raise RuntimeError("none")
        await asyncio.sleep(60)

    with served(mute, lifespan="off", timeout_graceful_shutdown=1) as url:
        assert lone_requests(server(url), [Question(5, 5)], 0.5) == {"requests": 0}


def test_of_a_whole_profile_so_many_requests_are_played_the_same_for_all():
    rng = np.random.default_rng(0)
    lengths = rng.permutation(5000)
    asked = {
        "none": [Question(i, int(n) + 1) for i, n in enumerate(lengths)],
        "brief": [Question(i, 1) for i in range(len(lengths))],
    }
    few = spread(asked, 200)
    rows = {name: [q.prompt_tokens for q in questions] for name, questions in few.items()}
    assert rows["none"] == rows["brief"]
    assert len(set(rows["none"])) == 200
    # A step of 25 from one to the next: none of the lengths is left out.
    assert np.all(np.diff([q.max_tokens for q in few["none"]]) == 25)
    assert np.mean([q.max_tokens for q in few["none"]]) == pytest.approx(2500, rel=0.01)
    assert {name: len(qs) for name, qs in spread(asked, 9000).items()} == dict.fromkeys(few, 5000)


def test_a_random_llama_streams_a_piece_for_each_token(tmp_path):
    random_weights.random_llama("tiny", tmp_path, "cpu")
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    likely = load_file(tmp_path / "model.safetensors")["lm_head.weight"].any(axis=1).nonzero()[0]
    texts = [tokenizer.decode([token]) for token in likely]
    assert len(texts) > 500
    assert all(text and "\ufffd" not in text for text in texts)


def test_what_was_measured_outlives_a_later_phase_that_fails(tmp_path, monkeypatch, capsys):
    made.profile(tmp_path, made.chats(1200, {"lookup": "What is {n}?"}), lambda r, d: 1.0)
    kept = []

    def cut(running, *_):
        kept.append(json.loads((tmp_path / "out/gpu.json").read_text())["shapes"]["tiny"])
        raise UpstreamError("the machine was taken away")

    with served(Slow()) as url:

        @contextmanager
        def server_of(*_, **__):
            yield SimpleNamespace(url=url, model="made")

        asked = []
        monkeypatch.setattr(random_weights, "random_llama", lambda *_: 1000)
        monkeypatch.setattr(gpu, "llama_server", server_of)
        monkeypatch.setattr(gpu, "choose_meter", lambda *_, **__: Steady())
        monkeypatch.setattr(gpu, "WARM_SECONDS", 0.5)
        monkeypatch.setattr(gpu, "lone_requests", lambda _, lone, seconds: asked.extend(lone) or {})
        monkeypatch.setattr(gpu, "mixture", cut)
        flags = ["--shapes", "tiny", "--device", "cpu", "--at-once", "2", "--seconds", "1"]
        flags += ["--idle-seconds", "1", "--window-seconds", "0.1", "--out", str(tmp_path / "out")]
        flags += ["--outcomes", str(tmp_path / "profile.parquet")]
        assert main(["bench", "gpu", *flags]) == 2
    assert capsys.readouterr().err.endswith("sprout: the machine was taken away\n")
    assert len(asked) == 2 * gpu.MOST_ALONE
    (found,) = kept
    assert [c["directive"] for c in found["cells"]] == ["none", "brief", "very_brief"]
    assert found["lone_requests"] == {}
    assert json.loads((tmp_path / "out/gpu.json").read_text())["shapes"]["tiny"] == found
