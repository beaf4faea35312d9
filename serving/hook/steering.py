"""What a request is to be given: who may decide it, what they choose, and its body then."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from envs.requests.directive import Message
from serving.hook.conversation import ConversationMemory, StickyChoice, draw_lottery
from serving.hook.deadline import DeadlineRunner
from serving.hook.decider import Decider, draw
from serving.hook.grid import Grid, Seen
from serving.hook.openai_api import APIS, UNKEPT, count_characters, opening, parse_body
from serving.hook.policies import Policies
from serving.ledger.record import Record
from serving.settings.control import Control
from serving.settings.hook import HookConfig
from serving.settings.rules import RequestFacts, Rule, first_matching

STEERING_MODES = ("canary", "on")
_LONGEST = 200


class NotSteeredError(Exception):
    """The request is not ours to decide; the argument is the reason."""


class FailedOpenError(Exception):
    """We could not decide; the argument is the reason."""


@dataclass(slots=True)
class Plan:
    """What becomes of one request.

    Attributes:
        steered: the body to send; None sends what came.
        asked_usage: whether the body asks for a usage chunk that the client did not ask for.
        trace_parent: the caller's span (https://www.w3.org/TR/trace-context/).
    """

    record: Record
    started: float
    steered: dict[str, Any] | None = None
    asked_usage: bool = False
    trace_parent: str | None = None
    finished: bool = field(default=False, repr=False)


class Steering:
    """Decides plans."""

    def __init__(
        self, config: HookConfig, policies: Policies, grid: Grid, memory: ConversationMemory
    ) -> None:
        self.config = config
        self.policies = policies
        self.grid = grid
        self._memory = memory
        self._caller = frozenset(config.caller_headers)
        self._tenant_header = (config.tenant_header or "").lower()
        self._asking = DeadlineRunner(config.deadline)

    def close(self) -> None:
        """Let go of threads."""
        self._asking.close()

    async def decide(
        self,
        plan: Plan,
        control: Control,
        raw: bytes | Mapping[str, Any],
        headers: Mapping[str, str],
    ) -> None:
        """Fill in a plan's record, and its body where that is to change; headers in lower case.

        Raises:
            LeftAloneError: it is not ours to decide.
            FailedOpenError, TooLateError, and whatever else goes wrong in deciding.
        """
        record, api = plan.record, APIS[plan.record.route]
        if isinstance(raw, bytes) and len(raw) > self.config.decided_bytes:
            raise FailedOpenError("too_large")
        try:
            body = parse_body(raw)
            messages = api.messages(body)
            record.characters = count_characters(messages)
            safe = api.safe(body) and not (isinstance(raw, bytes) and UNKEPT.search(raw))
        except (KeyError, TypeError, ValueError, AttributeError):
            # Upstream's to judge.
            raise FailedOpenError("unreadable") from None
        self._describe(record, body, messages, headers, control.salt)
        seen = self.grid.see()
        record.intensity_g_per_kwh = seen.reading.g_per_kwh
        record.intensity_time = seen.reading.time
        record.intensity_age_seconds = seen.reading.age_seconds
        record.intensity_step = seen.reading.step
        record.intensity_kind = str(seen.reading.kind)
        rule = None
        if control.rules:
            told = record.route, record.model or "", record.task, record.tenant
            rule = first_matching(control.rules, RequestFacts(*told, record.characters, headers))
        if rule is not None:
            record.rule, record.mode = rule.name, rule.mode or record.mode
        decider = self._decider(record, rule, headers)
        if not safe:
            raise NotSteeredError("format")
        action = await self._choose(record, decider, messages, rule, headers, seen, control)
        directive = decider.bundle.catalogue[action]
        record.directive = directive.name
        record.applied = action == 0 or record.mode in STEERING_MODES
        if action and record.applied:
            plan.steered = api.steer(body, directive)
        if self.config.ask_usage and record.streamed and record.mode in STEERING_MODES:
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
            raise NotSteeredError("off")
        if rule is not None and rule.forbid:
            raise NotSteeredError("rule")
        if "opt-out" in self._caller and "x-sprout-opt-out" in headers:
            raise NotSteeredError("opt_out")
        decider = self.policies.of(record.model)
        if decider is None:
            if not self.policies.loaded:
                raise FailedOpenError("no_bundle")
            raise NotSteeredError("unknown_model")
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
                raise FailedOpenError("unknown_directive")
            record.reason = "rule"
            return names.index(rule.force)
        name = headers.get("x-sprout-conversation") if "conversation" in self._caller else None
        lot = draw_lottery(
            bytes.fromhex(control.salt), messages, (record.tenant, record.model), name
        )
        record.conversation = f"{lot.key:016x}"
        if record.mode == "canary" and not (
            lot.canary < control.canary_ratio or record.task in control.canary_tasks
        ):
            raise NotSteeredError("not_canary")
        floor = self._floor(rule, headers)
        context = record.task, record.in_flight, floor, seen
        observation, chances = await self._asking.ask(decider, messages, *context)
        if not decider.steerable(observation):
            raise NotSteeredError("own_length")
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
        self._memory.put(lot.key, StickyChoice(action, record.probability, mark))
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
