"""Decides how a request is sent: which policy applies, which directive, and the new body."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from agents.policy.pricing import Floor, Floors
from envs.requests.directive import Message
from serving.apis.api import INEXACT_INTEGER, count_characters, opening, parse_body
from serving.apis.routes import APIS
from serving.hook.conversation import DAY_SECONDS, ConversationMemory, Lottery, StickyChoice
from serving.hook.deadline import DeadlineRunner
from serving.hook.decider import Decider, Decision, DecisionInput, draw
from serving.hook.description import describe, describe_intensity, matching_rule
from serving.hook.grid import Grid, GridState, UnknownGrid
from serving.hook.plan import FailedOpenError, NotSteeredError, Plan
from serving.hook.policies import Policies
from serving.hook.refusals import Refusals
from serving.ledger.record import Record
from serving.quality.follow_up import follow_up
from serving.quality.sampling.sample import Draft, is_text, plain_body
from serving.quality.sampling.sampler import Sampler
from serving.settings.control import Control
from serving.settings.floors import HookFloors
from serving.settings.guard_levels import MOVED, CellSetting, GuardLevels
from serving.settings.hook import HookConfig
from serving.settings.rules import Rule
from serving.settings.suspensions import Suspensions

STEERING_MODES = ("canary", "on")
_L0 = 0


class Restraints(NamedTuple):
    """The state that keeps a policy back.

    Attributes:
        refusals: models whose servers refuse directives.
        suspensions: models whose policy does not fit them.
        floors: the quality floors in force.
        levels: what the guard asks of each task.
    """

    refusals: Refusals
    suspensions: Suspensions
    floors: HookFloors
    levels: GuardLevels


class _Choice(NamedTuple):
    """The directive of a request.

    Attributes:
        action: index of the directive.
        asked: index of the directive, as the policy chose it for the floor that was asked for; None
            if no policy chose.
        floor: that floor; None if the request's task has none.
    """

    action: int
    asked: int | None = None
    floor: Floor | None = None


class _Context(NamedTuple):
    """One request while it is decided; the decision fills in `record`."""

    record: Record
    messages: Sequence[Message]
    headers: Mapping[str, str]
    control: Control
    rule: Rule | None
    grid: GridState
    lottery: Lottery


class Steering:
    """Decides requests and fills in their plans.

    Attributes:
        config: the hook's settings.
        policies: the policy bundles in use.
        grid: the carbon intensity.
    """

    def __init__(
        self,
        config: HookConfig,
        policies: Policies,
        grid: Grid | UnknownGrid,
        memory: ConversationMemory,
        restraints: Restraints,
        sampler: Sampler,
    ) -> None:
        self.config = config
        self.policies = policies
        self.grid = grid
        self._memory = memory
        self._refusals, self._suspensions, self._floors, self._levels = restraints
        self._sampler = sampler
        self._caller = frozenset(config.caller_headers)
        self._runner = DeadlineRunner(config.deadline)

    def close(self) -> None:
        """Stop the threads."""
        self._runner.close()

    async def decide(
        self,
        plan: Plan,
        control: Control,
        raw: bytes | Mapping[str, Any],
        headers: Mapping[str, str],
    ) -> None:
        """Fill in a plan's record, and its body if the body changes.

        Args:
            raw: the request's body, parsed or not.
            headers: with names in lower case.

        Raises:
            NotSteeredError: the request must not be steered.
            FailedOpenError, TooLateError: no decision could be made.
            Exception: an internal error; no decision was made.
        """
        record, api = plan.record, APIS[plan.record.route]
        if isinstance(raw, bytes) and len(raw) > self.config.decided_bytes:
            raise FailedOpenError("too_large")
        try:
            body = parse_body(raw)
            messages = api.messages(body)
            record.characters = count_characters(messages)
            safe = api.safe(body) and not (isinstance(raw, bytes) and INEXACT_INTEGER.search(raw))
        except (KeyError, TypeError, ValueError, AttributeError):
            # The upstream judges whether the body is valid.
            raise FailedOpenError("unreadable") from None
        salt = bytes.fromhex(control.salt)
        identity = describe(record, self.config, salt, body, messages, headers)
        lottery = self._memory.lottery(salt, identity, int(record.time // DAY_SECONDS))
        # Also of requests that are left alone: they may belong to a conversation that is not.
        record.conversation, record.keyed_by = f"{lottery.key:016x}", identity.keyed_by
        record.opening = identity.opens
        grid = self.grid.current()
        if grid is not None:
            describe_intensity(record, grid)
        rule = matching_rule(control, record, headers)
        if rule is not None:
            record.rule, record.mode = rule.name, rule.mode or record.mode
        decider = self._decider(record, rule, headers)
        if not record.opening:
            record.follow_up = follow_up(messages, decider.bundle.featurizer.text)
        if not safe:
            raise NotSteeredError("format")
        if grid is None:
            raise FailedOpenError("no_intensity")
        if record.mode in STEERING_MODES and (
            record.model in self._suspensions or self.grid.problem is not None
        ):
            record.mode = "shadow"
        choice = await self._choose(
            _Context(record, messages, headers, control, rule, grid, lottery), decider
        )
        action = choice.action
        directive = decider.bundle.catalogue[action]
        record.directive = directive.name
        record.applied = action == 0 or record.mode in STEERING_MODES
        plan.decided = record.mode in STEERING_MODES and not record.hold_out
        if action and record.applied:
            plan.steered, plan.directed = api.steer(body, directive), True
            plan.cap = directive.max_tokens
        asks = self.config.ask_usage and record.streamed and record.mode in STEERING_MODES
        if asks and not self._refusals.refuses(record.model, "usage"):
            _ask_usage(plan, body)
        if choice.asked is not None and is_text(messages):
            plan.sample = self._sampled(record, body, choice, decider, grid)

    def _decider(self, record: Record, rule: Rule | None, headers: Mapping[str, str]) -> Decider:
        """Return the policy for this request; raise if it must not be steered."""
        if record.mode == "off":
            raise NotSteeredError("off")
        if rule is not None and rule.forbid:
            raise NotSteeredError("rule")
        if "opt-out" in self._caller and "x-sprout-opt-out" in headers:
            raise NotSteeredError("opt_out")
        decider = self.policies.for_model(record.model)
        if decider is None:
            if not self.policies.loaded:
                raise FailedOpenError("no_bundle")
            raise NotSteeredError("unknown_model")
        if "no-transform" in headers.get("cache-control", "").lower():
            # The client forbids it (RFC 9111, section 5.2.1.6).
            raise NotSteeredError("no_transform")
        record.policy_version = decider.bundle.version
        if self._refusals.refuses(record.model, "directive"):
            raise NotSteeredError("refuses_directives")
        return decider

    def _sampled(
        self,
        record: Record,
        body: Mapping[str, Any],
        choice: _Choice,
        decider: Decider,
        grid: GridState,
    ) -> Draft | None:
        """Draw a request for the sample of judged answers; return None if it is not drawn."""
        task, zone = _cell_task(record, decider), grid.reading.zone
        probability = self._sampler.draw(record.model or "", task, zone)
        if probability is None:
            return None
        setting, candidate = self._levels.of(record.model or "", task, zone), None
        moved = setting is not None and setting.level in MOVED
        if moved or record.mode not in STEERING_MODES:
            candidate = decider.bundle.catalogue[choice.asked or _L0].name
        # Floors of rules and callers are of single requests, and say nothing about the task's.
        own = choice.floor is None or choice.floor.origin in ("rule", "caller")
        floor = None if own or choice.floor is None else choice.floor.ratio
        steers = record.mode in STEERING_MODES
        steered = steers and (setting is None or setting.level != "l0")
        return Draft(
            probability=probability,
            task=task,
            zone=zone,
            floor=floor,
            steered=steered,
            candidate=candidate,
            body=plain_body(body),
        )

    async def _choose(self, context: _Context, decider: Decider) -> _Choice:
        """Choose the request's directive and fill in the record.

        In this order: a directive that a rule forces, the canary, the request's own length, the
        hold-out, the guard, the conversation's earlier directive, the policy's draw.

        Raises:
            NotSteeredError: the canary, the request's own length, or that it is unlike all that the
                policy knows excludes it.
            TooLateError: the policy missed the deadline.
        """
        record, rule, control = context.record, context.rule, context.control
        if rule is not None and rule.force is not None:
            return _Choice(_apply_forced(record, rule.force, decider.bundle.catalogue.names))
        lottery = context.lottery
        if record.mode == "canary" and not (
            lottery.canary < control.canary_ratio or record.task in control.canary_tasks
        ):
            self._memory.put(lottery.key, None)
            raise NotSteeredError("not_canary")
        caller = context.headers.get("x-sprout-floor") if "floor" in self._caller else None
        floors = self._floors.in_force(control, rule, caller)
        demanded = caller is not None or (rule is not None and rule.floor is not None)
        cell = record.model or "", _cell_task(record, decider), context.grid.reading.zone
        guarded, asked = self._levels.of(*cell), None
        if guarded is not None and not demanded:
            asked, floors = _eased(guarded, floors, decider)
        question = DecisionInput(
            context.messages, record.task, record.in_flight, floors, context.grid, demanded
        )
        # Also for held-out and later turns: the record keeps the observation of every request.
        decision = await self._runner.run(decider, question)
        if not decision.steerable:
            raise NotSteeredError("own_length")
        _describe_decision(record, decision)
        if decision.unlike and self.config.unlike == "l0":
            raise NotSteeredError("unlike_profile")
        record.lottery, record.hold_out_ratio = True, control.hold_out_ratio
        version_mark = int(decider.bundle.version[:4], 16)
        if asked is not None and guarded is not None and guarded.floor:
            # What was drawn at an eased price does not outlive it.
            version_mark ^= round(1000 * guarded.floor)
        if lottery.hold_out < control.hold_out_ratio:
            record.hold_out, record.reason = True, "hold_out"
            chance = None
            if not record.opening:
                # A conversation has one propensity: that of its opening.
                chance = self._memory.held_out(lottery.key, version_mark)
            if chance is None:
                decision = await self._of_opening(context, decider, question, decision)
                chance = decision.probabilities[_L0]
            record.probability = chance
            self._memory.put_held_out(lottery.key, record.probability, version_mark)
            return _Choice(_L0)
        if guarded is not None and guarded.level in MOVED:
            return await self._choose_guarded(context, decider, question, decision, guarded)
        asked = asked or decision.floor
        if not record.opening and not demanded:
            remembered = self._memory.get(lottery.key, version_mark)
            if remembered and remembered.action < len(decider.bundle.catalogue):
                record.probability, record.reason = remembered.probability, "sticky"
                return _Choice(remembered.action, remembered.action, asked)
            # Decide from the conversation's opening, as its first turn did. Turns and replicas
            # then agree unless the grid or the load has changed since.
            decision = await self._of_opening(context, decider, question, decision)
            _describe_decision(record, decision)
        action = draw(decision.probabilities, lottery.directive)
        record.probability, record.reason = decision.probabilities[action], "policy"
        self._memory.put(lottery.key, StickyChoice(action, record.probability, version_mark))
        return _Choice(action, action, asked)

    async def _of_opening(
        self, context: _Context, decider: Decider, question: DecisionInput, decision: Decision
    ) -> Decision:
        """Return the decision on the conversation's opening, given that on the request."""
        if context.record.opening:
            return decision
        question = question._replace(messages=opening(context.messages))
        return await self._runner.run(decider, question)

    async def _choose_guarded(
        self,
        context: _Context,
        decider: Decider,
        question: DecisionInput,
        decision: Decision,
        guarded: CellSetting,
    ) -> _Choice:
        """Choose the directive of a request whose cell the guard has moved.

        All turns are decided from their conversation's opening, and none is remembered, so that
        the guard acts on conversations under way too.
        """
        record, uniform = context.record, context.lottery.directive
        if not record.opening:
            question = question._replace(messages=opening(context.messages))
            decision = await self._runner.run(decider, question)
            _describe_decision(record, decision)
        asked, floor = draw(decision.probabilities, uniform), decision.floor
        if guarded.level == "l0" or guarded.floor is None:
            record.probability, record.reason = 1.0, "guard"
            return _Choice(_L0, asked, floor)
        floors = question.floors.raised(Floor(guarded.floor, "guard"))
        # Nothing is explored where quality has fallen.
        question = question._replace(floors=floors, demanded=True)
        decision = await self._runner.run(decider, question)
        _describe_decision(record, decision)
        action = draw(decision.probabilities, uniform)
        record.probability, record.reason = decision.probabilities[action], "policy"
        return _Choice(action, asked, floor)


def _eased(guarded: CellSetting, floors: Floors, decider: Decider) -> tuple[Floor | None, Floors]:
    """Return the asked floor that a lower one takes the place of, if one does; and the floors."""
    if guarded.level == "eased" and guarded.floor:
        asked = floors.of(guarded.task, decider.pricing(guarded.zone).trained)
        if asked is not None and asked.ratio == guarded.asked:
            return asked, floors.eased(guarded.task, Floor(guarded.floor, "evidence"))
    return None, floors


def _cell_task(record: Record, decider: Decider) -> str:
    """Return the task of a request's cell: its tag, or nothing if the policy does not know it."""
    return record.task if record.task in decider.bundle.featurizer.tasks else ""


def _describe_decision(record: Record, decision: Decision) -> None:
    """Note what the policy observed: features, price, and the floor that the price is for."""
    record.features = base64.b64encode(decision.observation.tobytes()).decode()
    record.price = decision.price
    if decision.floor is not None:
        record.floor, record.floor_from = decision.floor


def _apply_forced(record: Record, directive: str, names: Sequence[str]) -> int:
    """Return the index of the directive that a rule forces, and note the reason."""
    if directive not in names:
        raise FailedOpenError("unknown_directive")
    record.reason = "rule"
    return names.index(directive)


def _ask_usage(plan: Plan, body: Mapping[str, Any]) -> None:
    """Ask the upstream for a stream's usage, unless the client sent stream options itself."""
    if not APIS[plan.record.route].usage_on_request or body.get("stream_options") is not None:
        return
    plan.steered = {**(plan.steered or body), "stream_options": {"include_usage": True}}
    plan.usage_added = True
