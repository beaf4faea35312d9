"""An LLM server as a process: it relays to another one, or answers wrongly if told to be brief.

Usage: python -m tests.serving.quality.relay_server PORT UPSTREAM right|wrong
"""

import sys

import aiohttp
from aiohttp import web

WRONG = {
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "nothing"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22},
}


def application(upstream, wrong):
    async def relay(request):
        body = await request.read()
        if wrong and b"briefly" in body:
            return web.json_response(WRONG)
        async with request.app["session"].request(
            request.method,
            upstream + request.path,
            data=body or None,
            headers={"content-type": "application/json"},
        ) as answer:
            text = await answer.read()
            return web.Response(status=answer.status, body=text, content_type=answer.content_type)

    async def session(app):
        async with aiohttp.ClientSession() as app["session"]:
            yield

    app = web.Application()
    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/{path:.*}", relay)
    return app


def main():
    port, upstream, answers = sys.argv[1:]
    web.run_app(application(upstream, answers == "wrong"), port=int(port), print=None)


if __name__ == "__main__":
    main()
