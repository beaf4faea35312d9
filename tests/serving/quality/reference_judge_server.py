"""A judge as a real process: an OpenAI-compatible server that knows the right answers.

Usage: python -m tests.serving.quality.reference_judge_server PORT SEED COUNT
"""

import json
import re
import sys

import uvicorn

from envs.requests.quality import correctness
from envs.requests.workload import generate_requests
from serving.http.asgi import read_body, respond

_PART = re.compile(r"<(?P<mark>\w+) (?P<name>[^>]+)>\n(?P<text>.*?)\n</(?P=mark)>", re.DOTALL)


class ReferenceJudgeServer:
    def __init__(self, references):
        # By the text of the user's message.
        self.references = references

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        body = await read_body(receive, 1 << 20)
        if scope["method"] == "GET":
            await respond(send, 200, b"{}")
            return
        prompt = json.loads(body)["messages"][-1]["content"]
        parts = {match["name"]: match["text"] for match in _PART.finditer(prompt)}
        request = self.references[parts["request"].removeprefix("user: ")]
        right = {
            name: correctness(request.task, parts[f"answer {name}"], request.reference)
            for name in "AB"
        }
        verdict = "tie" if right["A"] == right["B"] else max(right, key=right.get)
        message = {"role": "assistant", "content": f"I compared them.\nVerdict: {verdict}"}
        answer = {
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100},
        }
        await respond(send, 200, json.dumps(answer).encode())


def main():
    port, seed, count = map(int, sys.argv[1:])
    requests = generate_requests(count, seed=seed)
    references = {request.messages[-1]["content"]: request for request in requests}
    uvicorn.run(ReferenceJudgeServer(references), port=port, lifespan="off", log_level="critical")


if __name__ == "__main__":
    main()
