"""The admin application: metrics, health, and the operators' settings; on a port of its own."""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import parse_qs

import orjson
import sqlalchemy as sa
from prometheus_client import generate_latest
from pydantic import ValidationError

from envs.errors import ConfigError
from serving.http.asgi import (
    Receive,
    Scope,
    Send,
    decoded_headers,
    read_body,
    respond,
    respond_error,
)
from serving.http.openapi import OPENAPI, document
from serving.ledger.keeper import Keeper
from serving.ledger.savings import COLUMNS, estimate_savings
from serving.settings.control import SETTABLE
from serving.settings.rules import check_rules
from serving.telemetry.metrics import CONTENT_TYPE, render_all

TOKEN_VARIABLE = "SPROUT_ADMIN_TOKEN"  # noqa: S105
_LONGEST_BYTES = 1 << 20
_OPEN = frozenset(("/healthz", "/metrics", OPENAPI))
_HIDDEN = {"salt"}


class Admin:
    """ASGI application over a keeper's ledger.

    Open: /metrics, /healthz, and /openapi.json, which describes all of them. With the token as
    `Authorization: Bearer`: GET and PATCH /v1/control, POST /v1/reload, GET
    /v1/savings?hours=24, GET and DELETE /v1/requests/ID.

    Args:
        metrics: folder of the workers' metrics.
        token: None refuses all that needs one.
    """

    def __init__(self, keeper: Keeper, metrics: str, token: str | None) -> None:
        self._keeper = keeper
        self._metrics = metrics
        self._token = token.encode() if token else None
        self._routes: dict[tuple[str, str], Callable[[Scope, bytes], Awaitable[Any]]] = {
            ("GET", "/v1/control"): self._control,
            ("PATCH", "/v1/control"): self._change,
            ("POST", "/v1/reload"): self._reload,
            ("GET", "/v1/savings"): self._savings,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
            return
        if scope["type"] != "http":
            raise ValueError(f"scope {scope['type']!r}: only http is answered here")
        path = scope["path"]
        if path in _OPEN and scope["method"] not in ("GET", "HEAD"):
            await _refuse(send, ["GET", "HEAD"])
        elif path == "/healthz":
            await respond(send, 200, b'{"status":"ok"}\n')
        elif path == OPENAPI:
            await respond(send, 200, orjson.dumps(document()))
        elif path == "/metrics":
            text = await asyncio.to_thread(render_all, self._metrics)
            text += generate_latest(self._keeper.registry)
            await respond(send, 200, text, CONTENT_TYPE.encode())
        elif not self._known(scope):
            why = "" if self._token else f"; set {TOKEN_VARIABLE} where the hook starts"
            await respond_error(
                send, 401, f"give the admin token as Authorization: Bearer{why}", "auth"
            )
        else:
            body = await read_body(receive, _LONGEST_BYTES)
            if body is None:
                await respond_error(
                    send, 413, f"a body of more than {_LONGEST_BYTES} bytes", "too_large"
                )
            else:
                await self._answer(scope, body, send)

    def _known(self, scope: Scope) -> bool:
        given = decoded_headers(scope).get("authorization", "").encode("latin-1")
        return self._token is not None and hmac.compare_digest(given, b"Bearer " + self._token)

    async def _answer(self, scope: Scope, body: bytes, send: Send) -> None:
        handler = self._routes.get((scope["method"], scope["path"]))
        if handler is None and scope["path"].startswith("/v1/requests/"):
            handler = {"GET": self._request, "DELETE": self._delete}.get(scope["method"])
        if handler is None:
            allowed = [m for m, p in self._routes if p == scope["path"]]
            if scope["path"].startswith("/v1/requests/"):
                allowed = ["GET", "DELETE"]
            if allowed:
                await _refuse(send, allowed)
            else:
                await respond_error(send, 404, "no such admin route", "not_found")
            return
        try:
            await respond(send, 200, orjson.dumps(await handler(scope, body)))
        except KeyError as error:
            await respond_error(send, 404, str(error.args[0]), "not_found")
        except (ConfigError, ValueError) as error:
            await respond_error(send, 422, _said(error), "invalid_request_error")
        except sa.exc.SQLAlchemyError as error:
            message = f"the ledger is away: {type(error).__name__}"
            await respond_error(send, 503, message, "ledger_error")

    async def _control(self, scope: Scope, body: bytes) -> Any:
        found = await asyncio.to_thread(self._keeper.ledger.control)
        return found.model_dump(mode="json", exclude=_HIDDEN)

    async def _change(self, scope: Scope, body: bytes) -> Any:
        changes = orjson.loads(body)
        if not isinstance(changes, dict) or not changes or set(changes) - SETTABLE:
            raise ValueError(f"give an object with some of {', '.join(sorted(SETTABLE))}")
        if "rules" in changes:
            changes["rules"] = check_rules(changes["rules"], "given")
        return await self._set(**changes)

    async def _reload(self, scope: Scope, body: bytes) -> Any:
        now = await asyncio.to_thread(self._keeper.ledger.control)
        return await self._set(reloads=now.reloads + 1)

    async def _set(self, **changes: Any) -> Any:
        new = await asyncio.to_thread(lambda: self._keeper.ledger.set_control(**changes))
        return new.model_dump(mode="json", exclude=_HIDDEN)

    async def _savings(self, scope: Scope, body: bytes) -> Any:
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        if unknown := set(query) - {"hours"}:
            raise ValueError(f"{min(unknown)!r}: this takes hours")
        try:
            hours = float(query.get("hours", ["24"])[-1])
        except ValueError:
            hours = -1.0
        if not 0 < hours <= 24 * 3660:
            raise ValueError("hours: a number above 0")
        until = time.time()
        since = until - 3600 * hours
        rows = self._keeper.ledger.rows(COLUMNS, since, until)
        found = await asyncio.to_thread(lambda: estimate_savings(rows))
        return {"since": since, "until": until, **found}

    async def _request(self, scope: Scope, body: bytes) -> Any:
        key = scope["path"].rsplit("/", 1)[-1]
        found = await asyncio.to_thread(lambda: self._keeper.ledger.find(key))
        if found is None:
            raise KeyError("no such decision in the ledger (yet)")
        return found

    async def _delete(self, scope: Scope, body: bytes) -> Any:
        key = scope["path"].rsplit("/", 1)[-1]
        count = await asyncio.to_thread(lambda: self._keeper.ledger.delete(decision_id=key))
        if not count:
            raise KeyError("no such decision in the ledger (yet)")
        return {"deleted": count}


async def _refuse(send: Send, allowed: Sequence[str]) -> None:
    headers = [(b"allow", ", ".join(allowed).encode())]
    await respond(send, 405, b'{"error":{"message":"method"}}', headers=headers)


def _said(error: Exception) -> str:
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(str(part) for part in found['loc'])}: {found['msg']}"
    return str(error)
