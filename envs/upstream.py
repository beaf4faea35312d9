"""A client of the upstream LLM server: OpenAI-compatible chat, many requests at once."""

import asyncio
import atexit
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
from anyio.from_thread import BlockingPortal, start_blocking_portal

from envs.errors import UpstreamError

API_KEY_VARIABLE = "SPROUT_UPSTREAM_API_KEY"


@dataclass(frozen=True)
class Generation:
    """One answer of the server.

    Attributes:
        text: the answer's text.
        prompt_tokens, completion_tokens: tokens, as the server counts them.
        latency_seconds: s from sending the request to the complete answer.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    latency_seconds: float


class Upstream:
    """A synchronous client that keeps many requests in flight.

    Use it as a context manager, or call `open` and `close`. The API key, if any, is read from
    the environment variable SPROUT_UPSTREAM_API_KEY and sent only to the upstream.

    Args:
        url: base URL of the server, with or without /v1 at its end.
        model: name of the model; None for the first one that the server lists.
        timeout_seconds: limit for each request, s.

    Attributes:
        completion_tokens: generated tokens received so far.
        answered_by: model and `system_fingerprint` that the last answer named; None if it did not.
    """

    def __init__(self, url: str, model: str | None = None, timeout_seconds: float = 120.0) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        if not self.url.startswith(("http://", "https://")):
            raise UpstreamError(f"--upstream {url}: http:// is missing; give http://HOST:PORT")
        self._model = model
        self._timeout = timeout_seconds
        self.completion_tokens = 0
        self.answered_by: tuple[str | None, str | None] = None, None
        self._portal_context = start_blocking_portal("asyncio")
        self._portal: BlockingPortal | None = None
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> Self:
        """Start the client's background thread and HTTP session."""
        self._portal = self._portal_context.__enter__()
        self._portal.call(self._connect)
        # A program that ends without `close` would wait for the thread forever.
        atexit.register(self.close)
        return self

    def close(self) -> None:
        """End the thread and the session. A second call has no effect."""
        if self._portal is None or self._session is None:
            return
        atexit.unregister(self.close)
        self._portal.call(self._session.close)
        self._portal_context.__exit__(None, None, None)
        self._portal = self._session = None

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def _connect(self) -> None:
        key = os.environ.get(API_KEY_VARIABLE)
        self._session = aiohttp.ClientSession(
            # Close idle connections before the server does (uvicorn: after 5 s), so that no request
            # goes to a connection that the server is just closing.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=3),
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            headers={"Authorization": f"Bearer {key}"} if key else None,
        )

    @property
    def model(self) -> str:
        """Name of the model to use: the given one, or the first one that the server lists.

        Raises:
            UpstreamError: the server lists no model.
        """
        if self._model is None:
            models = self._call("GET", "/v1/models", None)
            try:
                self._model = str(models["data"][0]["id"])
            except (AttributeError, IndexError, KeyError, TypeError) as error:
                raise UpstreamError(
                    f"{self.url}/v1/models lists no model; name one with --model"
                ) from error
        return self._model

    def chat(self, chats: Sequence[Mapping[str, Any]]) -> list[Generation]:
        """Send all chats at once, wait for all answers, and return them in the same order.

        Args:
            chats: chat-completions bodies. `model`, and `temperature` 0 for greedy decoding,
                are added unless a body has them.

        Raises:
            UpstreamError: a request failed; the message names the URL and the cause.
        """
        model = self.model
        bodies = [{"model": model, "temperature": 0.0, **chat} for chat in chats]
        if self._portal is None:
            raise UpstreamError(f"{self.url}: the client is closed; open it first")
        return self._portal.call(self._gather, bodies)

    async def _gather(self, bodies: Sequence[Mapping[str, Any]]) -> list[Generation]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._answer_or_error(body)) for body in bodies]
        results = [task.result() for task in tasks]
        for result in results:
            if isinstance(result, UpstreamError):
                raise result
        answers = [result for result in results if isinstance(result, Generation)]
        self.completion_tokens += sum(answer.completion_tokens for answer in answers)
        return answers

    async def _answer_or_error(self, body: Mapping[str, Any]) -> Generation | UpstreamError:
        started = time.monotonic()
        try:
            answer = await self._json("POST", "/v1/chat/completions", body)
        except UpstreamError as error:
            return error
        try:
            self.answered_by = _text(answer.get("model")), _text(answer.get("system_fingerprint"))
            usage = answer["usage"]
            return Generation(
                str(answer["choices"][0]["message"]["content"] or "").strip(),
                int(usage["prompt_tokens"]),
                int(usage["completion_tokens"]),
                time.monotonic() - started,
            )
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            cause = f"{type(error).__name__}: {error}"
            return UpstreamError(
                f"{self.url}: malformed answer ({cause}); is the server OpenAI-compatible?"
            )

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        if self._portal is None:
            raise UpstreamError(f"{self.url}: the client is closed; open it first")
        return self._portal.call(self._json, method, path, body)

    async def _json(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        assert self._session is not None
        try:
            async with self._session.request(method, self.url + path, json=body) as response:
                if response.status >= 400:
                    text = (await response.text())[:300]
                    raise UpstreamError(f"{self.url}{path} answered {response.status}: {text}")
                return await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            cause = str(error) or type(error).__name__
            raise UpstreamError(f"the LLM server at {self.url} failed: {cause}") from error


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
