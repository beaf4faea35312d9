"""GET /readyz: the state of a gateway, and what an operator should look at.

It reports an upstream that does not answer, but does not fail for it: an outage of the upstream
must not take all replicas out of a load balancer.
"""

import asyncio
import time
from typing import Any

import orjson

from envs.plausible import LEAST_MEAN_G_PER_KWH
from serving.hook.core import Hook
from serving.http.asgi import Receive, Scope, Send, respond
from serving.http.relay import Relay
from serving.ledger.replica import read_problem

PATH = "/readyz"
# A report about the upstreams is used for this long: anybody may ask for it, s.
CACHE_SECONDS = 5.0
# The upstreams are asked this often for their models, and when the bundles have changed, s.
_WATCH_SECONDS, _LOOK_SECONDS = 60.0, 0.5
# Older carbon intensity is named as a problem, s.
_OLD_SECONDS = 2 * 3600.0
_MOST_SHOWN = 5


class Readiness:
    """Reports on one worker of a gateway, and watches what the upstreams serve."""

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

    async def check(self) -> dict[str, str]:
        """Ask the upstreams; return the models that have a bundle and are not listed, with why.

        Their requests are not steered until they are listed, or with --on-model-change warn.
        """
        upstreams = await self._upstream_states()
        if self._hook.config.on_model_change == "warn":
            return {}
        known, unlisted = self._hook.suspensions.unlisted, {}
        for decider in self._hook.policies.loaded:
            bundle = decider.bundle
            models = _upstream_of(bundle.model, upstreams)["models"]
            if models is None and bundle.model in known:
                # Not known this time.
                unlisted[bundle.model] = known[bundle.model]
            elif models is not None and not _lists(models, bundle.model):
                shown = ", ".join(map(repr, models[:_MOST_SHOWN])) or "no model"
                more = " and others" if len(models) > _MOST_SHOWN else ""
                unlisted[bundle.model] = (
                    f"bundle {bundle.version} is for model {bundle.model!r}, and its upstream "
                    f"lists {shown}{more}; give the policy of one of these models, let the server "
                    "use the policy's name, or, if it takes any name, give --on-model-change warn"
                )
        self._hook.suspensions.unlisted = unlisted
        return unlisted

    async def watch(self) -> None:
        """Check again and again, until cancelled."""
        versions, checked = self._versions(), time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            current = self._versions()
            if current != versions or time.monotonic() - checked > _WATCH_SECONDS:
                versions, checked = current, time.monotonic()
                await self.check()

    async def report(self) -> dict[str, Any]:
        """Return the state as JSON, with the problems in words."""
        await self.check()
        upstreams = await self._upstream_states()
        hook = self._hook
        state: dict[str, Any] = {
            "status": "ready",
            "mode": hook.control.now.mode,
            "off": bool(hook.control.kill.reasons),
            "not_steered": hook.not_steered,
            "ledger_problem": read_problem(hook.config.state),
            "upstreams": upstreams,
            "bundles": [
                self._bundle(decider.bundle, upstreams) for decider in hook.policies.loaded
            ],
            "bundles_refused": len(hook.policies.problems),
            "guard": [cell.model_dump(exclude_none=True) for cell in hook.levels.moved],
            "carbon_intensity": self._intensity(),
        }
        return state | {"problems": _problems(state)}

    def _versions(self) -> list[str]:
        return [decider.bundle.version for decider in self._hook.policies.loaded]

    def _intensity(self) -> dict[str, Any] | None:
        grid = self._hook.grid.current()
        if grid is None:
            return None
        reading = grid.reading
        return {
            "g_per_kwh": reading.g_per_kwh,
            "mean_g_per_kwh": self._hook.grid.mean_g_per_kwh,
            "zone": reading.zone,
            "step": reading.step,
            "age_seconds": reading.age_seconds,
            "kind": str(reading.kind),
            "source": reading.source,
        }

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
        models = _upstream_of(bundle.model, upstreams)["models"]
        validation = bundle.manifest.get("validation") or {}
        return {
            "version": bundle.version,
            "model": bundle.model,
            # None if the upstream lists no models, so that this is not known.
            "served": None if models is None else _lists(models, bundle.model),
            "floors_kept": validation.get("floors_kept"),
            "missed": validation.get("missed") or {},
            "floors": self._floors(bundle),
        }

    def _floors(self, bundle: Any) -> dict[str, float]:
        """Return the floor of each task that has one, without those of rules and callers."""
        in_force = self._hook.floors.in_force(self._hook.control.now, None, None)
        trained = bundle.manifest.get("floors") or {}
        floors = {task: in_force.of(task, trained) for task in bundle.featurizer.tasks}
        return {task: floor.ratio for task, floor in floors.items() if floor is not None}


def _lists(models: list[str], model: str) -> bool:
    """Return whether a server lists a model; Ollama adds a tag to the name."""
    return model in models or f"{model}:latest" in models


def _upstream_of(model: str, upstreams: list[dict[str, Any]]) -> dict[str, Any]:
    return next((state for state in upstreams if state["for"] == model), upstreams[0])


def _problems(state: dict[str, Any]) -> list[str]:
    problems = [
        f"upstream ({upstream['for']}): {upstream['problem']}"
        for upstream in state["upstreams"]
        if upstream["problem"] is not None
    ]
    problems += [
        f"model {model}: not steered until this is mended: {reason}"
        for model, reason in state["not_steered"].items()
    ]
    for bundle in state["bundles"]:
        if bundle["served"] is False and bundle["model"] not in state["not_steered"]:
            problems.append(
                f"bundle {bundle['version']} is for model {bundle['model']!r}, which its upstream "
                "does not list (--on-model-change warn)"
            )
        if bundle["floors_kept"] is False:
            missed = [f"{n} by {size:.3f}" for n, size in bundle["missed"].items()]
            shown = ", ".join(missed[:_MOST_SHOWN])
            more = f" and {len(missed) - _MOST_SHOWN} more" if len(missed) > _MOST_SHOWN else ""
            problems.append(
                f"bundle {bundle['version']} missed in training: {shown}{more}; its answers there "
                "may be worse than agreed"
            )
    for cell in state["guard"]:
        task = cell["task"] or "untagged requests"
        action = "kept at L0" if cell["level"] == "l0" else f"priced for {cell['floor']:.2f}"
        problems.append(
            f"quality of {task} ({cell['model']}, {cell['zone']}) fell below its floor: {action} "
            "until it is back (`sprout quality`)"
        )
    if not state["bundles"]:
        problems.append("no bundle is loaded: requests pass unchanged")
    if state["bundles_refused"]:
        problems.append(f"{state['bundles_refused']} bundles are refused; the log says why")
    intensity = state["carbon_intensity"]
    if intensity is None:
        problems.append("carbon intensity: unknown, so requests pass unchanged")
    else:
        problems += _intensity_problems(intensity)
    if state["ledger_problem"]:
        problems.append(f"{state['ledger_problem']}; records wait in the journal")
    if state["off"]:
        problems.append("the kill switch is engaged")
    return problems


def _intensity_problems(intensity: dict[str, Any]) -> list[str]:
    problems = []
    if intensity["zone"] == "SYNTHETIC":
        problems.append("carbon intensity: a synthetic day, which is no real grid; --intensity")
    if intensity["step"] == "yearly_mean":
        problems.append("carbon intensity: not known now, so the mean stands in for it")
    elif intensity["age_seconds"] > _OLD_SECONDS:
        hours = intensity["age_seconds"] / 3600
        problems.append(f"carbon intensity: {hours:.0f} hours old ({intensity['step']})")
    if 0 < intensity["mean_g_per_kwh"] < LEAST_MEAN_G_PER_KWH:
        problems.append(
            f"carbon intensity: a mean of {intensity['mean_g_per_kwh']:.3g} gCO2e/kWh is right "
            "only for grids that run on hydropower alone; is it in kg?"
        )
    return problems


def lines(state: dict[str, Any]) -> list[str]:
    """Return a report in words, one fact a line, without its problems."""
    shown = [f"mode: {state['mode']}"]
    for upstream in state["upstreams"]:
        models = upstream["models"]
        listed = "lists no models" if models is None else f"serves {', '.join(models) or 'nothing'}"
        shown.append(f"upstream ({upstream['for']}): {upstream['problem'] or listed}")
    for bundle in state["bundles"]:
        floors = ", ".join(f"{task} {floor:g}" for task, floor in bundle["floors"].items())
        floors = f", floors {floors}" if floors else ""
        shown.append(f"bundle {bundle['version']} for {bundle['model']}{floors}")
    if (intensity := state["carbon_intensity"]) is not None:
        shown.append(
            f"carbon intensity: {intensity['g_per_kwh']:.3g} gCO2e/kWh (mean "
            f"{intensity['mean_g_per_kwh']:.3g}), zone {intensity['zone']}, {intensity['kind']}, "
            f"{intensity['step']}, age {intensity['age_seconds']:.0f} s"
        )
    return shown
