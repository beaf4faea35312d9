"""The framework-free core: observe a request, decide, rewrite it, observe the outcome.

`plan` before a request goes to the model, `finish` once, when its answer is complete or has
failed. Neither ever raises: what fails in us leaves the request as it came, and is counted.
"""

import base64
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from envs.directive import Message
from serving.answer import Answer, Answered, Usage
from serving.api import APIS, UNKEPT, characters, opening, parsed
from serving.config import HookConfig
from serving.control import Control, LocalControl
from serving.conversation import Given, Memory, lottery
from serving.deadline import Asking, TooLateError
from serving.decision import Decider, draw
from serving.grid import Grid, Seen
from serving.metrics import Metrics
from serving.policies import Policies
from serving.record import Record, new_id
from serving.recorder import Recorder, complain
from serving.rules import Facts, Rule, first

OWN_HEADERS = "x-sprout-"
SCHEMA_VERSION = 1
STEERING = ("canary", "on")
_LONGEST = 200


class _LeftAloneError(Exception):
    """The request is not ours to decide; the argument is the reason."""


class _FailedOpenError(Exception):
    """We could not decide; the argument is the reason."""


@dataclass(slots=True)
class Plan:
    """What becomes of one request.

    Attributes:
        steered: the body to send; None sends what came.
        asked_usage: whether the body asks for a usage chunk that the client did not ask for.
    """

    record: Record
    started: float
    steered: dict[str, Any] | None = None
    asked_usage: bool = False
    finished: bool = field(default=False, repr=False)


class Hook:
    """Decides requests and records them."""

    def __init__(
        self,
        config: HookConfig,
        policies: Policies,
        grid: Grid,
        control: LocalControl,
        memory: Memory,
        metrics: Metrics,
    ) -> None:
        self.config = config
        self.policies = policies
        self.grid = grid
        self.control = control
        self.metrics = metrics
        self._memory = memory
        self._recorder = Recorder(config, policies, metrics)
        self._caller = frozenset(config.caller_headers)
        self._tenant_header = (config.tenant_header or "").lower()
        self._in_flight = 0
        self._asking = Asking(config.deadline)

    async def plan(
        self, route: str, body: bytes | Mapping[str, Any], headers: Mapping[str, str]
    ) -> Plan:
        """Decide one request of a route in `APIS`; headers in lower case."""
        started = time.perf_counter()
        control = self.control.now
        record = Record(new_id(), time.time(), route, mode=control.mode)
        plan = Plan(record, started)
        record.in_flight = self._in_flight
        self._in_flight += 1
        try:
            if control.mode != "off":
                await self._decide(plan, control, body, headers)
        except _LeftAloneError as why:
            record.reason = str(why)
        except _FailedOpenError as why:
            self._fail_open(record, str(why))
        except TooLateError:
            self._fail_open(record, "deadline")
        except Exception as error:
            # Whatever it was, it is ours: the request goes on as it came.
            self.withdraw(plan, "failed")
            complain("a decision failed; its request went through untouched", error)
        except BaseException:
            # The caller has given up meanwhile.
            self._in_flight -= 1
            raise
        record.decision_seconds = time.perf_counter() - started
        return plan

    def withdraw(self, plan: Plan, reason: str) -> None:
        """What we changed will not do: the request is sent on as it came."""
        plan.steered, plan.asked_usage = None, False
        self._fail_open(plan.record, reason)

    def answer(self, plan: Plan) -> Answer:
        """A watch over the answer to a planned request."""
        estimates = self.config.estimates and plan.record.mode in STEERING
        return Answer(
            plan.started,
            estimate=(lambda usage: self._recorder.said(plan.record, usage))
            if estimates and not plan.asked_usage
            else None,
            hide_usage=plan.asked_usage,
            keep=self.config.store_prompts,
        )

    def finish(self, plan: Plan, answer: Answered, outcome: str) -> None:
        """Record a request's end, before the answer's last byte is released; once."""
        if plan.finished:
            return
        plan.finished = True
        self._in_flight -= 1
        plan.record.seconds = time.perf_counter() - plan.started
        self._recorder.record(plan.record, answer, outcome)

    def report(self, row: dict[str, Any], usage: Usage) -> None:
        """Record how a request ended that its caller sent to the model without us."""
        self._recorder.report(row, usage, self.grid.see().reading)

    def headers(self, plan: Plan) -> list[tuple[str, str]]:
        """What the answer's headers say; nothing where the mode is off."""
        record = plan.record
        if record.mode == "off":
            return []
        said = {
            "directive": record.directive if record.applied else "none",
            "probability": f"{record.probability if record.applied else 1.0:.6f}",
            "reason": record.reason,
            "mode": record.mode,
            "decision-id": record.decision_id,
            "schema-version": str(SCHEMA_VERSION),
        }
        if record.policy_version is not None:
            said["policy-version"] = record.policy_version
        if record.intensity_g_per_kwh is not None:
            said["intensity"] = f"{record.intensity_g_per_kwh:.1f}"
            said["intensity-age"] = f"{record.intensity_age_seconds or 0.0:.0f}"
        return [(OWN_HEADERS + name, value) for name, value in said.items()]

    @property
    def in_flight(self) -> int:
        """Requests planned and not yet finished."""
        return self._in_flight

    def close(self) -> None:
        """Let go of threads and files."""
        self._asking.close()
        self._recorder.close()

    async def _decide(
        self,
        plan: Plan,
        control: Control,
        raw: bytes | Mapping[str, Any],
        headers: Mapping[str, str],
    ) -> None:
        record, api = plan.record, APIS[plan.record.route]
        if isinstance(raw, bytes) and len(raw) > self.config.decided_bytes:
            raise _FailedOpenError("too_large")
        try:
            body = parsed(raw)
            messages = api.messages(body)
            record.characters = characters(messages)
            safe = api.safe(body) and not (isinstance(raw, bytes) and UNKEPT.search(raw))
        except (KeyError, TypeError, ValueError, AttributeError):
            # Upstream's to judge.
            raise _FailedOpenError("unreadable") from None
        self._describe(record, body, messages, headers, control.salt)
        seen = self.grid.see()
        record.intensity_g_per_kwh = seen.reading.g_per_kwh
        record.intensity_time = seen.reading.time
        record.intensity_age_seconds = seen.reading.age_seconds
        rule = None
        if control.rules:
            told = record.route, record.model or "", record.task, record.tenant
            rule = first(control.rules, Facts(*told, record.characters, headers))
        if rule is not None:
            record.rule, record.mode = rule.name, rule.mode or record.mode
        decider = self._decider(record, rule, headers)
        if not safe:
            raise _LeftAloneError("format")
        action = await self._choose(record, decider, messages, rule, headers, seen, control)
        directive = decider.bundle.catalogue[action]
        record.directive = directive.name
        record.applied = action == 0 or record.mode in STEERING
        if action and record.applied:
            plan.steered = api.steer(body, directive)
        if self.config.ask_usage and record.streamed and record.mode in STEERING:
            self._ask_usage(plan, body)

    def _describe(
        self,
        record: Record,
        body: Mapping[str, Any],
        messages: Sequence[Message],
        headers: Mapping[str, str],
        salt: str,
    ) -> None:
        model = body.get("model")
        record.model = model[:_LONGEST] if isinstance(model, str) else None
        record.streamed = body.get("stream") is True
        if "task" in self._caller and (task := headers.get("x-sprout-task")) is not None:
            record.task = task[:_LONGEST]
        if self._tenant_header and (tenant := headers.get(self._tenant_header)) is not None:
            if self._tenant_header == "authorization":
                # A secret: only whether two are the same may be seen of it.
                key = bytes.fromhex(salt)
                tenant = hashlib.blake2b(tenant.encode(), digest_size=8, key=key).hexdigest()
            record.tenant = tenant[:_LONGEST]
        if self.config.store_prompts:
            record.prompt = orjson.dumps(messages).decode()

    def _decider(self, record: Record, rule: Rule | None, headers: Mapping[str, str]) -> Decider:
        """Who decides; raises where nobody is to."""
        if record.mode == "off":
            raise _LeftAloneError("off")
        if rule is not None and rule.forbid:
            raise _LeftAloneError("rule")
        if "opt-out" in self._caller and "x-sprout-opt-out" in headers:
            raise _LeftAloneError("opt_out")
        decider = self.policies.of(record.model)
        if decider is None:
            if not self.policies.loaded:
                raise _FailedOpenError("no_bundle")
            raise _LeftAloneError("unknown_model")
        record.policy_version = decider.bundle.version
        return decider

    async def _choose(
        self,
        record: Record,
        decider: Decider,
        messages: Sequence[Message],
        rule: Rule | None,
        headers: Mapping[str, str],
        seen: Seen,
        control: Control,
    ) -> int:
        names = decider.bundle.catalogue.names
        if rule is not None and rule.force is not None:
            if rule.force not in names:
                raise _FailedOpenError("unknown_directive")
            record.reason = "rule"
            return names.index(rule.force)
        name = headers.get("x-sprout-conversation") if "conversation" in self._caller else None
        lot = lottery(bytes.fromhex(control.salt), messages, (record.tenant, record.model), name)
        record.conversation = f"{lot.key:016x}"
        if record.mode == "canary" and not (
            lot.canary < control.canary_ratio or record.task in control.canary_tasks
        ):
            raise _LeftAloneError("not_canary")
        floor = self._floor(rule, headers)
        context = record.task, record.in_flight, floor, seen
        observation, chances = await self._asking.ask(decider, messages, *context)
        if not decider.steerable(observation):
            raise _LeftAloneError("own_length")
        record.features = base64.b64encode(observation.tobytes()).decode()
        record.lottery, record.hold_out_ratio = True, control.hold_out_ratio
        if lot.hold_out < control.hold_out_ratio:
            record.hold_out, record.reason = True, "hold_out"
            return 0
        mark = int(decider.bundle.version[:4], 16)
        if lot.later and floor is None:
            if (given := self._memory.get(lot.key, mark)) and given.action < len(names):
                record.probability, record.reason = given.probability, "sticky"
                return given.action
            # As it was, or another replica did, when it began.
            begun = opening(messages)
            observation, chances = await self._asking.ask(decider, begun, *context)
            record.features = base64.b64encode(observation.tobytes()).decode()
        action = draw(chances, lot.directive)
        record.probability, record.reason = chances[action], "policy"
        self._memory.put(lot.key, Given(action, record.probability, mark))
        return action

    def _floor(self, rule: Rule | None, headers: Mapping[str, str]) -> float | None:
        demands = [] if rule is None or rule.floor is None else [rule.floor]
        if "floor" in self._caller and (asked := headers.get("x-sprout-floor")) is not None:
            try:
                demands.append(min(1.0, max(0.0, float(asked))))
            except ValueError:
                # Whatever it was to say, it asked for more quality.
                demands.append(1.0)
        return max(demands, default=None)

    def _ask_usage(self, plan: Plan, body: Mapping[str, Any]) -> None:
        options = body.get("stream_options")
        if plan.record.route == "/v1/responses" or options is not None:
            return
        plan.steered = {**(plan.steered or body), "stream_options": {"include_usage": True}}
        plan.asked_usage = True

    def _fail_open(self, record: Record, reason: str) -> None:
        record.reason, record.lottery, record.applied = reason, False, True
        record.directive, record.probability = "none", 1.0
        self.metrics.fail_open.labels(reason).inc()
