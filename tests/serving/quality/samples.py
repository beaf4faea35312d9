"""Samples of a hook with a small policy, and a model that echoes, for tests."""

import asyncio
import json

from serving.http.asgi import read_body, respond
from tests.serving.hooks import CHAT, hook

JUDGED = {"judge": "http://127.0.0.1:9", "judge_model": "judge", "sample": 1.0}
TAG = {"x-sprout-task": "arithmetic"}
FLOORED = {"extra": {"floors": {"arithmetic": 0.9}}}


class Taken(list):
    """Takes samples, as the parent process does."""

    def __call__(self, samples):
        self.extend(samples)
        return len(samples)


def sampled(folder, headers=TAG, **settings):
    """Send one chat through a hook that samples; return the plan and what was sampled."""
    taken = Taken()
    own = hook(folder, send=taken, **(JUDGED | FLOORED | settings))
    plan = asyncio.run(own.plan("/v1/chat/completions", json.dumps(CHAT).encode(), headers))
    answer = own.answer(plan)
    answer.start(200, [(b"content-type", b"application/json")])
    message = {"message": {"content": "Hello"}}
    body = {"choices": [message], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    answer.feed(json.dumps(body).encode(), False)
    own.finish(plan, answer, "completed")
    own.refresh()
    own.close()
    return plan, taken


class Echo:
    """A model that answers with the system text that it got, or "plain"."""

    def __init__(self):
        self.bodies = []
        self.status = 200

    async def __call__(self, scope, receive, send):
        body = json.loads(await read_body(receive, 1 << 20))
        self.bodies.append((dict(scope["headers"]), body))
        first = body["messages"][0]
        text = first["content"] if first["role"] == "system" else "plain"
        answer = {
            "choices": [{"message": {"content": text}}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 30},
        }
        await respond(send, self.status, json.dumps(answer).encode())
