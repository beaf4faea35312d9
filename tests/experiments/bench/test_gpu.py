"""`sprout bench gpu` ends in time, and its results survive a later failure."""

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
from tests.serving.hooks import waited
from tests.serving.upstream import served


class Slow:
    """Stream 20 tokens/s to each request and report usage at the end.

    `unread` has, for each client that left before the end of its answer, the tokens sent to it.
    """

    def __init__(self):
        self.unread = []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
                if kind.endswith("shutdown"):
                    return
        body = json.loads((await receive())["body"])
        disconnected = asyncio.create_task(self._disconnected(receive))
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for sent in range(body["max_tokens"]):
            await asyncio.sleep(0.05)
            if disconnected.done():
                self.unread.append(sent)
                return
            await self._event(send, [{"index": 0, "delta": {"content": "x"}}])
        prompt = 3 + len(body["messages"][0]["content"].split())
        usage = {"prompt_tokens": prompt, "completion_tokens": body["max_tokens"]}
        await self._event(send, [], {**usage, "total_tokens": sum(usage.values())})
        disconnected.cancel()
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _disconnected(self, receive):
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


# Answers take up to 100 s, as on a server whose host is the bottleneck.
QUESTIONS = {
    "none": [Question(10, 8), Question(10, 2000)],
    "brief": [Question(12, 8), Question(12, 1000)],
}


def test_answers_that_do_not_end_in_time_are_cut_off_and_counted():
    with served(slow := Slow()) as url:
        start = time.monotonic()
        played = play_for(url, "made", 4, timed(2.5, QUESTIONS["none"], 0), 2.5)
        assert time.monotonic() - start < 20
        # The server noticed every disconnect, so it generates no tokens without a reader.
        assert waited(lambda: len(slow.unread) == len(played.cut))
    assert played.cut
    assert played.ended
    for question, activity in played.all:
        assert activity.prompt_tokens == question.prompt_tokens + 3
        assert activity.start < activity.first <= activity.end
    assert {a.completion_tokens for _, a in played.ended} == {8}
    # What was on its way when the client left is not counted.
    counted = sorted(activity.completion_tokens for _, activity in played.cut)
    assert counted == pytest.approx(sorted(slow.unread), abs=3)


@pytest.mark.long
def test_every_phase_ends_in_time_even_if_answers_are_very_long():
    with served(Slow()) as url:
        start = time.monotonic()
        cell = measure(server(url), "none", QUESTIONS["none"], 4, 1.0)
        mixed = mixture(server(url), QUESTIONS, 4, 1.0, {"none": 10.0, "brief": 10.0})
        lone = lone_requests(server(url), [*QUESTIONS["none"], *QUESTIONS["brief"] * 1000], 3.0)
        assert time.monotonic() - start < 40
    assert cell.cut > 0
    assert 0.9 < cell.seconds < 10
    assert cell.off < 1e-6
    # Four requests in flight at 20 tokens/s each. The questions ask for 1,004 tokens on average,
    # whichever of them ended.
    assert 8 < cell.tokens_per_second < 90
    assert cell.joules_per_request == pytest.approx(1004 * cell.joules_per_token)
    # The first lone request took 0.4 s; the second would take 100 s.
    assert lone["requests"] == 1
    assert set(mixed) == {"none", "brief"}


def test_lone_requests_end_in_time_on_a_server_that_never_answers():
    async def mute(scope, receive, send):
        if scope["type"] == "lifespan":
            raise RuntimeError("none")
        await asyncio.sleep(60)

    with served(mute, lifespan="off", timeout_graceful_shutdown=1) as url:
        assert lone_requests(server(url), [Question(5, 5)], 0.5) == {"requests": 0}


def test_spread_selects_the_same_evenly_spaced_rows_for_all_directives():
    rng = np.random.default_rng(0)
    lengths = rng.permutation(5000)
    all_questions = {
        "none": [Question(i, int(n) + 1) for i, n in enumerate(lengths)],
        "brief": [Question(i, 1) for i in range(len(lengths))],
    }
    selection = spread(all_questions, 200)
    rows = {name: [q.prompt_tokens for q in questions] for name, questions in selection.items()}
    assert rows["none"] == rows["brief"]
    assert len(set(rows["none"])) == 200
    # Neighbours differ by 25 tokens: no range of lengths is left out.
    assert np.all(np.diff([q.max_tokens for q in selection["none"]]) == 25)
    assert np.mean([q.max_tokens for q in selection["none"]]) == pytest.approx(2500, rel=0.01)
    counts = {name: len(questions) for name, questions in spread(all_questions, 9000).items()}
    assert counts == dict.fromkeys(selection, 5000)


def test_every_likely_token_of_a_random_llama_decodes_to_whole_characters(tmp_path):
    random_weights.random_llama("tiny", tmp_path, "cpu")
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    likely = load_file(tmp_path / "model.safetensors")["lm_head.weight"].any(axis=1).nonzero()[0]
    texts = [tokenizer.decode([token]) for token in likely]
    assert len(texts) > 500
    assert all(text and "\ufffd" not in text for text in texts)


def test_measurements_survive_the_failure_of_a_later_phase(tmp_path, monkeypatch, capsys):
    made.profile(tmp_path, made.chats(1200, {"lookup": "What is {n}?"}), lambda r, d: 1.0)
    written_results = []

    def fail_and_keep_results(running, *_):
        written_results.append(
            json.loads((tmp_path / "out/gpu.json").read_text())["shapes"]["tiny"]
        )
        raise UpstreamError("the machine was taken away")

    with served(Slow()) as url:

        @contextmanager
        def fake_server(*_, **__):
            yield SimpleNamespace(url=url, model="made")

        lone_questions = []
        monkeypatch.setattr(random_weights, "random_llama", lambda *_: 1000)
        monkeypatch.setattr(gpu, "llama_server", fake_server)
        monkeypatch.setattr(gpu, "choose_meter", lambda *_, **__: Steady())
        monkeypatch.setattr(gpu, "WARM_SECONDS", 0.5)
        monkeypatch.setattr(
            gpu, "lone_requests", lambda _, lone, seconds: lone_questions.extend(lone) or {}
        )
        monkeypatch.setattr(gpu, "mixture", fail_and_keep_results)
        flags = ["--shapes", "tiny", "--device", "cpu", "--at-once", "2", "--seconds", "1"]
        flags += ["--idle-seconds", "1", "--window-seconds", "0.1", "--out", str(tmp_path / "out")]
        flags += ["--outcomes", str(tmp_path / "profile.parquet")]
        assert main(["bench", "gpu", *flags]) == 2
    assert capsys.readouterr().err.endswith("sprout: the machine was taken away\n")
    assert len(lone_questions) == 2 * gpu.MOST_ALONE
    (results,) = written_results
    assert [c["directive"] for c in results["cells"]] == ["none", "brief", "very_brief"]
    assert results["alone"] == {}
    assert json.loads((tmp_path / "out/gpu.json").read_text())["shapes"]["tiny"] == results
