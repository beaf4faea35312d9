"""The hook's shapes behind one interface: send a request, return the body that upstream got."""

import asyncio
import json
import uuid
from types import SimpleNamespace

import aiohttp

from serving.http.decide_routes import DecideRoutes
from serving.http.relay import Relay
from serving.litellm_callback import ROUTES, SproutCallback
from serving.middleware import SproutMiddleware
from serving.processes.gateway import Gateway
from tests.serving.hooks import post
from tests.serving.upstream import Upstream, served


class GatewayShape:
    """The gateway: a server in front of the model server."""

    def __init__(self, hook):
        self._hook = hook
        self.upstream = Upstream()

    def __enter__(self):
        self._upstream_server = served(self.upstream)
        self._front = served(Gateway(self._hook, Relay(self._upstream_server.__enter__())))
        self._url = self._front.__enter__()
        return self

    def __exit__(self, *error):
        self._front.__exit__(*error)
        self._upstream_server.__exit__(*error)

    def ask(self, route, body, headers=None):
        """Send a request and return the status and the answer's headers and bytes."""
        status, data, answer_headers = post(f"{self._url}{route}", body, headers)
        return status, answer_headers, data

    def sent(self):
        """Return the body that upstream received last."""
        return json.loads(self.upstream.received[-1][3])


class MiddlewareShape(GatewayShape):
    """The middleware inside the model server's application."""

    def __enter__(self):
        self._front = served(SproutMiddleware(self.upstream, self._hook))
        self._url = self._front.__enter__()
        return self

    def __exit__(self, *error):
        self._front.__exit__(*error)


class DecideShape(GatewayShape):
    """The decide routes: the caller asks for a decision, sends to the model itself, and reports."""

    def __enter__(self):
        self._upstream_server = served(self.upstream)
        self._model = self._upstream_server.__enter__()
        self._front = served(DecideRoutes(self._hook))
        self._url = self._front.__enter__()
        return self

    def __exit__(self, *error):
        self._front.__exit__(*error)
        self._upstream_server.__exit__(*error)

    def ask(self, route, body, headers=None):
        question = {"route": route, "body": body}
        _, raw, _ = post(f"{self._url}/v1/decide", question, headers)
        decision = json.loads(raw)
        status, data, _ = post(f"{self._model}{route}", decision["body"])
        report = {"decision_id": decision["decision_id"], "status": status}
        if b'"usage"' in data:
            report |= {"prompt_tokens": 3, "completion_tokens": 4}
        post(f"{self._url}/v1/outcome", report)
        answer_headers = {f"x-sprout-{k.replace('_', '-')}": str(v) for k, v in decision.items()}
        return status, answer_headers, data


class LitellmShape(GatewayShape):
    """LiteLLM's hooks, called in the proxy's order (test_clients.py runs the real proxy)."""

    routes = frozenset(ROUTES.values())

    def __enter__(self):
        self._upstream_server = served(self.upstream)
        self._model = self._upstream_server.__enter__()
        self._callback = SproutCallback(self._hook)
        return self

    def __exit__(self, *error):
        self._upstream_server.__exit__(*error)

    def ask(self, route, body, headers=None):
        return asyncio.run(self._ask(route, body, headers or {}))

    async def _ask(self, route, body, headers):
        kind = {path: name for name, path in ROUTES.items()}[route]
        data = {**body, "litellm_call_id": uuid.uuid4().hex}
        data |= {"proxy_server_request": {"headers": headers}}
        data["litellm_metadata" if kind == "aresponses" else "metadata"] = {}
        callback, key = self._callback, object()
        data = await callback.async_pre_call_hook(key, None, data, kind) or data
        private = ("litellm_call_id", "proxy_server_request", "metadata", "litellm_metadata")
        sent = {name: value for name, value in data.items() if name not in private}
        async with (
            aiohttp.ClientSession() as session,
            session.post(self._model + route, json=sent) as answer,
        ):
            raw, status = await answer.read(), answer.status
        answer_headers = await callback.async_post_call_response_headers_hook(data, key, None)
        if body.get("stream"):
            await self._stream(data, key, raw)
        elif status == 200:
            await callback.async_post_call_success_hook(data, key, _object(json.loads(raw)))
        else:
            error = Exception()
            error.status_code = status
            await callback.async_post_call_failure_hook(data, error, key)
        return status, answer_headers or {}, raw

    async def _stream(self, data, key, raw):
        async def pieces():
            for line in raw.splitlines():
                if line.startswith(b"data: {"):
                    yield _object(json.loads(line[6:]))

        hooked = self._callback.async_post_call_streaming_iterator_hook(key, pieces(), data)
        assert len([piece async for piece in hooked]) >= 3


def _object(value):
    return json.loads(json.dumps(value), object_hook=lambda d: SimpleNamespace(**d))


SHAPES = {
    "gateway": GatewayShape,
    "middleware": MiddlewareShape,
    "decide": DecideShape,
    "litellm": LitellmShape,
}
