"""The admin application, on its own port: metrics, health and the operators' settings."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
from prometheus_client import generate_latest
from pydantic import ValidationError

from envs.errors import ConfigError, LedgerError
from serving.http.asgi import (
    BodyTooLongError,
    ClientLeftError,
    Receive,
    Scope,
    Send,
    decoded_headers,
    read_body,
    respond,
    respond_error,
)
from serving.http.openapi import OPENAPI_PATH, document
from serving.http.quality_routes import QualityRoutes
from serving.http.query import period_of
from serving.ledger.keeper import Keeper
from serving.ledger.known_names import known_names
from serving.quality.watch import QualityWatch
from serving.savings.estimate import read_savings
from serving.settings.control import SETTABLE, Control
from serving.settings.kill_switch import KillState
from serving.settings.rules import check_names, check_rules, check_tasks
from serving.telemetry.metrics import CONTENT_TYPE, render_workers

TOKEN_VARIABLE = "SPROUT_ADMIN_TOKEN"  # noqa: S105
_LONGEST_BYTES = 1 << 20
_OPEN = frozenset(("/healthz", "/metrics", OPENAPI_PATH))
# The lottery's key, the history of the kill switch, and whether a start succeeded.
_HIDDEN = {"salt", "kill", "started"}
# Member of a change that lifts the kill switch.
RELEASE = "release_off"


class Admin:
    """ASGI application that serves a keeper's ledger and settings.

    Routes without a token: /metrics, /healthz, and /openapi.json, which describes all routes.
    Routes with the token as `Authorization: Bearer`: GET and PATCH /v1/control, POST
    /v1/reload, GET /v1/savings?since=&until=&hours=, GET and DELETE /v1/requests/ID, and those of
    `serving.http.quality_routes`.

    Args:
        keeper: the keeper of this replica's ledger.
        metrics: folder of the workers' metrics.
        token: the admin token; None refuses all routes that need it.
        watch: judges answers; None if none are judged here.
    """

    def __init__(
        self, keeper: Keeper, metrics: str, token: str | None, watch: QualityWatch | None = None
    ) -> None:
        self._keeper = keeper
        self._watch = watch
        self._metrics = metrics
        self._token = token.encode() if token else None
        # Requests that wait for a database that hangs may fill the default one.
        self._killer = ThreadPoolExecutor(1, "sprout-kill")
        self._routes: dict[tuple[str, str], Callable[[Scope, bytes], Awaitable[Any]]] = {
            ("GET", "/v1/control"): self._control,
            ("PATCH", "/v1/control"): self._change_control,
            ("POST", "/v1/reload"): self._reload,
            ("GET", "/v1/savings"): self._savings,
            **QualityRoutes(keeper.ledger, None if watch is None else watch.reviews).routes,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
            return
        if scope["type"] != "http":
            raise ValueError(
                f"ASGI scope {scope['type']!r}: the admin application serves only http"
            )
        path = scope["path"]
        if path in _OPEN and scope["method"] not in ("GET", "HEAD"):
            await _refuse_method(send, ["GET", "HEAD"])
        elif path == "/healthz":
            await respond(send, 200, b'{"status":"ok"}\n')
        elif path == OPENAPI_PATH:
            await respond(send, 200, orjson.dumps(document()))
        elif path == "/metrics":
            text = await asyncio.to_thread(render_workers, self._metrics)
            text += generate_latest(self._keeper.registry)
            await respond(send, 200, text, CONTENT_TYPE.encode())
        elif not self._authorized(scope):
            hint = "" if self._token else f"; the hook must be started with {TOKEN_VARIABLE} set"
            await respond_error(
                send, 401, f"send the admin token as Authorization: Bearer{hint}", "auth"
            )
        else:
            try:
                body = await read_body(receive, _LONGEST_BYTES)
            except BodyTooLongError:
                await respond_error(
                    send, 413, f"the body exceeds {_LONGEST_BYTES} bytes", "too_large"
                )
            except ClientLeftError:
                return
            else:
                await self._answer(scope, body, send)

    def _authorized(self, scope: Scope) -> bool:
        header = decoded_headers(scope).get("authorization", "").encode("latin-1")
        return self._token is not None and hmac.compare_digest(header, b"Bearer " + self._token)

    async def _answer(self, scope: Scope, body: bytes, send: Send) -> None:
        handler = self._routes.get((scope["method"], scope["path"]))
        if handler is None and scope["path"].startswith("/v1/requests/"):
            handler = {"GET": self._request, "DELETE": self._delete}.get(scope["method"])
        if handler is None:
            allowed = [method for method, path in self._routes if path == scope["path"]]
            if scope["path"].startswith("/v1/requests/"):
                allowed = ["GET", "DELETE"]
            if allowed:
                await _refuse_method(send, allowed)
            else:
                await respond_error(send, 404, "no such admin route", "not_found")
            return
        try:
            await respond(send, 200, orjson.dumps(await handler(scope, body)))
        except KeyError as error:
            await respond_error(send, 404, str(error.args[0]), "not_found")
        except (ConfigError, ValueError) as error:
            await respond_error(send, 422, _message(error), "invalid_request_error")
        except LedgerError as error:
            await respond_error(send, 503, str(error), "ledger_error")

    async def _control(self, scope: Scope, body: bytes) -> Any:
        return self._shown(await asyncio.to_thread(self._keeper.ledger.control))

    async def _change_control(self, scope: Scope, body: bytes) -> Any:
        changes = orjson.loads(body)
        allowed = SETTABLE | {RELEASE}
        if not isinstance(changes, dict) or not changes or set(changes) - allowed:
            raise ValueError(f"body: give an object with some of {', '.join(sorted(allowed))}")
        release = changes.pop(RELEASE, False)
        if not isinstance(release, bool):
            raise ValueError(f"{RELEASE}: give true or false")
        if release and changes.get("mode") == "off":
            raise ValueError(f"give mode off or {RELEASE}, not both")
        if "rules" in changes:
            changes["rules"] = check_rules(changes["rules"], "given")
        # All of it, before a part takes effect.
        Control.model_validate({**self._keeper.settings.control.stored.model_dump(), **changes})
        if changes.get("mode") == "off":
            # At once, and whatever the database does: the keeper writes it there when it can.
            del changes["mode"]
            await self._kill(self._kill_state.engage("admin"))
        elif release:
            await self._kill(self._kill_state.release())
        if "rules" in changes:
            known = await asyncio.to_thread(known_names, self._keeper.ledger)
            check_names(changes["rules"], known, "given")
        if "floors" in changes:
            known = await asyncio.to_thread(known_names, self._keeper.ledger)
            check_tasks(list(changes["floors"]), known.tasks, "floors")
        if len(changes) > 0:
            return await self._set_control(**changes)
        return self._shown(self._keeper.settings.control.stored)

    async def _kill(self, state: KillState) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._killer, self._keeper.settings.kill, state)

    @property
    def _kill_state(self) -> KillState:
        return self._keeper.settings.control.kill.state

    def _shown(self, control: Control) -> dict[str, Any]:
        """Return settings as operators see them: with the kill switch, without the salt."""
        shown = control.model_dump(mode="json", exclude=_HIDDEN)
        reasons = self._keeper.settings.control.kill.reasons
        mode = "off" if reasons else control.mode
        return shown | {
            "mode": mode,
            "mode_after_release": control.mode,
            "off": reasons,
            "replica": self._keeper.name,
        }

    async def _reload(self, scope: Scope, body: bytes) -> Any:
        control = await asyncio.to_thread(self._keeper.ledger.control)
        return await self._set_control(reloads=control.reloads + 1)

    async def _set_control(self, **changes: Any) -> Any:
        return self._shown(
            await asyncio.to_thread(lambda: self._keeper.ledger.set_control(**changes))
        )

    async def _savings(self, scope: Scope, body: bytes) -> Any:
        since, until = period_of(scope)
        return await asyncio.to_thread(read_savings, self._keeper.ledger, since, until)

    async def _request(self, scope: Scope, body: bytes) -> Any:
        decision_id = scope["path"].rsplit("/", 1)[-1]
        row = await asyncio.to_thread(lambda: self._keeper.ledger.find(decision_id))
        if row is None:
            raise KeyError("no such decision in the ledger (yet)")
        return row

    async def _delete(self, scope: Scope, body: bytes) -> Any:
        decision_id = scope["path"].rsplit("/", 1)[-1]
        if self._watch is not None:
            self._watch.forget(decision_id)
        count = await asyncio.to_thread(lambda: self._keeper.ledger.delete(decision_id=decision_id))
        if not count:
            raise KeyError("no such decision in the ledger (yet)")
        return {"deleted": count}


async def _refuse_method(send: Send, allowed: Sequence[str]) -> None:
    methods = ", ".join(allowed).encode()
    body = b'{"error":{"message":"use ' + methods + b'"}}'
    await respond(send, 405, body, headers=[(b"allow", methods)])


def _message(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first_error = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(str(part) for part in first_error['loc'])}: {first_error['msg']}"
    return str(error)
