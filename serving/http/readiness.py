"""GET /readyz: the state of a gateway, and what an operator should look at.

It reports an upstream that does not answer, but does not fail for it: an outage of the upstream
must not take all replicas out of a load balancer.
"""

import asyncio
import time
from typing import Any

import orjson

from serving.hook.core import Hook
from serving.http.asgi import Receive, Scope, Send, respond
from serving.http.relay import Relay

PATH = "/readyz"
# A report about the upstreams is used for this long: anybody may ask for it, s.
CACHE_SECONDS = 5.0
# Older carbon intensity is named as a problem, s.
_OLD_SECONDS = 2 * 3600.0


class Readiness:
    """Reports on one worker of a gateway."""

    def __init__(self, hook: Hook, relay: Relay) -> None:
        self._hook = hook
        self._relay = relay
        self._lock = asyncio.Lock()
        self._known: list[dict[str, Any]] = []
        self._known_until = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["method"] not in ("GET", "HEAD"):
            headers = [(b"allow", b"GET, HEAD")]
            await respond(send, 405, b'{"error":{"message":"use GET"}}', headers=headers)
            return
        await respond(send, 200, orjson.dumps(await self.report()))

    async def report(self) -> dict[str, Any]:
        """Return the state as JSON, with the problems in words."""
        upstreams = await self._upstream_states()
        control, reading = self._hook.control, self._hook.grid.current().reading
        bundles = [
            self._bundle(decider.bundle, upstreams) for decider in self._hook.policies.loaded
        ]
        intensity = {
            "g_per_kwh": reading.g_per_kwh,
            "zone": reading.zone,
            "step": reading.step,
            "age_seconds": reading.age_seconds,
            "kind": str(reading.kind),
            "source": reading.source,
        }
        state: dict[str, Any] = {
            "status": "ready",
            "mode": control.now.mode,
            "off": bool(control.kill.reasons),
            "upstreams": upstreams,
            "bundles": bundles,
            "bundles_refused": len(self._hook.policies.problems),
            "carbon_intensity": intensity,
        }
        return state | {"problems": _problems(state)}

    async def _upstream_states(self) -> list[dict[str, Any]]:
        async with self._lock:
            if time.monotonic() >= self._known_until:
                upstreams = self._relay.upstreams
                urls = {"default": upstreams.default, **upstreams.by_model}
                self._known = list(
                    await asyncio.gather(*(self._state(*pair) for pair in urls.items()))
                )
                self._known_until = time.monotonic() + CACHE_SECONDS
            return self._known

    async def _state(self, name: str, url: str) -> dict[str, Any]:
        models, problem = await self._relay.models(url)
        return {"for": name, "models": models, "problem": problem}

    def _bundle(self, bundle: Any, upstreams: list[dict[str, Any]]) -> dict[str, Any]:
        named = [state for state in upstreams if state["for"] == bundle.model] or upstreams[:1]
        models = named[0]["models"]
        validation = bundle.manifest.get("validation") or {}
        return {
            "version": bundle.version,
            "model": bundle.model,
            # None if the upstream lists no models, so that this is not known.
            "served": None if models is None else bundle.model in models,
            "floors_kept": validation.get("floors_kept"),
            "worst_margin": validation.get("worst_margin"),
        }


def _problems(state: dict[str, Any]) -> list[str]:
    problems = [
        f"upstream ({upstream['for']}): {upstream['problem']}"
        for upstream in state["upstreams"]
        if upstream["problem"] is not None
    ]
    for bundle in state["bundles"]:
        name = f"bundle {bundle['version']}"
        if bundle["served"] is False:
            problems.append(
                f"{name} is for model {bundle['model']!r}, which its upstream does not list: its "
                "requests pass unchanged"
            )
        if bundle["floors_kept"] is False:
            problems.append(f"{name} missed a floor in training by {-bundle['worst_margin']:.3f}")
    if not state["bundles"]:
        problems.append("no bundle is loaded: requests pass unchanged")
    if state["bundles_refused"]:
        problems.append(f"{state['bundles_refused']} bundles are refused; the log says why")
    intensity = state["carbon_intensity"]
    if intensity["zone"] == "SYNTHETIC":
        problems.append("carbon intensity: a synthetic day, which is no real grid; --intensity")
    elif intensity["age_seconds"] > _OLD_SECONDS:
        hours = intensity["age_seconds"] / 3600
        problems.append(f"carbon intensity: {hours:.0f} hours old ({intensity['step']})")
    if state["off"]:
        problems.append("the kill switch is engaged")
    return problems
