"""The framework-free core: decide and rewrite a request, observe its answer, record the outcome.

Call `Hook.plan` before a request goes to the model, and `Hook.finish` once its answer is
complete or has failed. Neither raises: if the hook fails, the request passes on unchanged and
the failure is counted.
"""

import hmac
import time
from collections.abc import Mapping
from typing import Any

from envs.errors import SproutError
from serving.apis.routes import APIS
from serving.hook.answer import Answer
from serving.hook.completion import Completer
from serving.hook.conversation import ConversationMemory
from serving.hook.deadline import TooLateError
from serving.hook.grid import Grid, UnknownGrid
from serving.hook.headers import answer_headers
from serving.hook.outcome import AnswerOutcome, Usage
from serving.hook.plan import FailedOpenError, NotSteeredError, Plan
from serving.hook.policies import Policies
from serving.hook.refusals import Refusals
from serving.hook.steering import Restraints, Steering
from serving.ledger.in_flight import InFlight
from serving.ledger.quality.feedback import Feedback
from serving.ledger.record import Amendment, Record, new_id
from serving.quality.sampling.sample import Draft
from serving.quality.sampling.sampler import Sampler
from serving.settings.control import LocalControl
from serving.settings.floors import HookFloors
from serving.settings.guard_levels import GuardLevels
from serving.settings.hook import HookConfig
from serving.settings.suspensions import Suspensions
from serving.telemetry.log import log, log_internal_error
from serving.telemetry.metrics import Metrics
from serving.telemetry.traces import Traces


class Hook:
    """Decides requests and records them.

    Attributes:
        config: the hook's settings.
        policies: the policy bundles in use.
        grid: the carbon intensity.
        control: the operators' settings, as this replica last read them.
        metrics: Prometheus metrics.
        traces: exporter of OpenTelemetry spans; None exports none.
        refusals: models whose servers refuse directives.
        suspensions: models that are not steered, because their policy does not fit them.
        floors: the quality floors in force.
        levels: what the guard asks of each task.
        sampler: draws the requests whose answers are judged.
    """

    def __init__(
        self,
        config: HookConfig,
        policies: Policies,
        grid: Grid | UnknownGrid,
        control: LocalControl,
        memory: ConversationMemory,
        metrics: Metrics,
        traces: Traces | None = None,
    ) -> None:
        self.config = config
        self.policies = policies
        self.grid = grid
        self.control = control
        self.metrics = metrics
        self.traces = traces
        self.refusals = Refusals()
        self.suspensions = Suspensions(config.state)
        self._not_steered: dict[str, str] = {}
        self._step: str | None = None
        self.floors = HookFloors(config.floor)
        self.levels = GuardLevels(config.state, watched=config.judges)
        self.sampler = Sampler(config.sample, self.levels)
        restraints = Restraints(self.refusals, self.suspensions, self.floors, self.levels)
        self._steering = Steering(config, policies, grid, memory, restraints, self.sampler)
        self._completer = Completer(config, policies, metrics)
        self._in_flight = InFlight(config.state)

    async def plan(
        self, route: str, body: bytes | Mapping[str, Any], headers: Mapping[str, str]
    ) -> Plan:
        """Decide one request; never raises, except when cancelled.

        Args:
            route: a route in `APIS`.
            body: the request's body, parsed or not.
            headers: with names in lower case.
        """
        started = time.perf_counter()
        control = self.control.now
        record = Record(new_id(), time.time(), route, mode=control.mode)
        plan = Plan(record, started, trace_parent=headers.get("traceparent"))
        record.in_flight = len(self._in_flight)
        self._in_flight.begin(record.decision_id, record.time)
        try:
            if control.mode != "off":
                await self._steering.decide(plan, control, body, headers)
        except NotSteeredError as error:
            record.reason = str(error)
        except FailedOpenError as error:
            self._fail_open(record, str(error))
        except TooLateError:
            self._fail_open(record, "deadline")
        except Exception as error:
            # Any other error is a fault of the hook and must not fail the request.
            self.withdraw(plan, "failed")
            log_internal_error("a decision failed; the request passes on unchanged", error)
        except BaseException:
            # Cancelled: the caller will not call `finish`.
            self._in_flight.end(record.decision_id)
            raise
        record.decision_seconds = time.perf_counter() - started
        return plan

    def is_evaluation(self, mark: str | None) -> bool:
        """Return whether a request was made only to judge others: it must not be planned.

        Args:
            mark: value of its `EVALUATION_HEADER`; None if it has none.
        """
        if mark is None:
            return False
        return hmac.compare_digest(mark.encode(), self.control.stored.evaluation_mark.encode())

    def withdraw(self, plan: Plan, reason: str) -> None:
        """Discard the changes of a plan, so that the original request is sent.

        Args:
            reason: reason code of the failure.
        """
        plan.steered, plan.decided, plan.directed, plan.usage_added = None, False, False, False
        plan.sample = plan.cap = None
        self._fail_open(plan.record, reason)

    def answer(self, plan: Plan) -> Answer:
        """Return an observer of the answer to a planned request.

        Only answers to requests that a policy or a rule decided get an estimate; all others keep
        their bytes.
        """
        record = plan.record
        estimates = self.config.estimates and plan.decided
        usage_member = self._completer.usage_member
        return Answer(
            APIS[record.route],
            plan.started,
            estimate=(lambda usage, model: usage_member(record, model, usage))
            if estimates and not plan.usage_added
            else None,
            hide_usage=plan.usage_added,
            keep=self.config.store_prompts or plan.sample is not None,
        )

    def finish(self, plan: Plan, answer: AnswerOutcome, outcome: str) -> None:
        """Record the outcome of a request; only the first call has an effect.

        Call it before the answer's last byte is sent, so that every complete answer is recorded.

        Args:
            outcome: see `serving.ledger.record.Record.outcome`.
        """
        if plan.finished:
            return
        plan.finished = True
        plan.record.seconds = time.perf_counter() - plan.started
        if isinstance(answer, Answer) and answer.misread:
            self.metrics.fail_open.labels("answer_misread").inc()
        if answer.cut_off:
            tokens = answer.usage.completion_tokens
            ours = plan.cap is not None and tokens is not None and tokens >= plan.cap
            plan.record.cut_off = "directive" if ours else "caller"
        self._completer.complete(plan.record, answer, outcome)
        if plan.sample is not None:
            self._sample(plan.sample, plan.record, answer, outcome)
        self._in_flight.end(plan.record.decision_id)
        if self.traces is not None:
            self.traces.ended(plan.record, plan.trace_parent)

    def _sample(self, draft: Draft, record: Record, answer: AnswerOutcome, outcome: str) -> None:
        """Put a finished request into the sample, if there is an answer to judge."""
        if outcome != "completed" or answer.status != 200:
            return
        try:
            self.sampler.add(draft, record, answer.text)
        except Exception as error:
            log_internal_error("an answer could not be put into the sample", error)

    def report(self, reported: Amendment, usage: Usage) -> None:
        """Record the outcome of a request that the caller sent to the model itself."""
        self._completer.report(reported, usage)

    def take_feedback(self, feedback: Feedback) -> bool:
        """Write an opinion to the journal; return whether that succeeded."""
        return self._completer.write(feedback)

    def headers(self, plan: Plan) -> list[tuple[bytes, bytes]]:
        """Return the headers to add to the answer, none if the mode is "off"."""
        return answer_headers(plan.record, self.control.now.salt)

    @property
    def in_flight(self) -> int:
        """Number of requests planned and not yet finished."""
        return len(self._in_flight)

    def refresh(self, *, reload: bool = False) -> None:
        """Read changed files again: operators' settings, policy bundles, carbon intensity.

        Also publishes metrics and spans. Blocks on files, so call it outside the event loop.

        Args:
            reload: load the bundles even if their files seem unchanged.
        """
        reloads = self.control.now.reloads
        self.control.refresh()
        try:
            self.grid.refresh()
        except (SproutError, OSError) as error:
            log_internal_error(f"carbon intensity not read; the last one stays in use: {error}")
        self._refresh_policies(force=reload or self.control.now.reloads != reloads)
        try:
            self.floors.refresh()
        except SproutError as error:
            log_internal_error(f"floors not read; the last ones stay in force: {error}")
        self.suspensions.refresh()
        self.levels.refresh()
        self.metrics.samples_dropped.inc(self.sampler.flush())
        self._log_not_steered()
        self._log_step()
        self._in_flight.publish()
        self.publish_metrics()

    def publish_metrics(self) -> None:
        """Set the metrics that no request sets, and publish those of finished requests."""
        if (grid := self.grid.current()) is not None:
            self.metrics.intensity.set(grid.reading.g_per_kwh)
            self.metrics.intensity_age.set(grid.reading.age_seconds)
            self.metrics.grid(grid.reading)
        self.metrics.suspended(self.not_steered)
        self.metrics.mode(self.control.now.mode)
        self.metrics.kill_switch.set(bool(self.control.kill.reasons))
        self.metrics.flush(self.in_flight)
        if self.traces is not None:
            self.traces.flush()
        loaded = self.policies.loaded
        self.metrics.policies([(d.bundle.version, d.bundle.model) for d in loaded])

    def _refresh_policies(self, *, force: bool) -> None:
        known_problems = dict(self.policies.problems)
        self.policies.use_kind(self.grid.kind)
        if self.policies.refresh(force=force):
            self.metrics.reloads.labels("loaded").inc()
            names = [f"{d.bundle.version} for {d.bundle.model}" for d in self.policies.loaded]
            log.info("bundles in use: %s", ", ".join(names))
        for folder, problem in self.policies.problems.items():
            if known_problems.get(folder) != problem:
                self.metrics.reloads.labels("refused").inc()
                log_internal_error(f"bundle refused; the loaded one stays in use: {problem}")

    @property
    def not_steered(self) -> dict[str, str]:
        """Why no request for a model is steered, by model; "*" stands for all models."""
        problem = self.grid.problem
        return ({} if problem is None else {"*": problem}) | self.suspensions.reasons

    def _log_not_steered(self) -> None:
        now = self.not_steered
        for model, reason in now.items():
            if reason != self._not_steered.get(model):
                log.error("model %s: not steered until this is mended: %s", model, reason)
        for model in self._not_steered.keys() - now.keys():
            log.warning("model %s: steered again", model)
        self._not_steered = now

    def _log_step(self) -> None:
        """Log that the carbon intensity comes from another step of its fallbacks."""
        grid = self.grid.current()
        step = None if grid is None else grid.reading.step
        if self._step is not None and step not in (None, self._step):
            log.warning("carbon intensity: now from step %s, before %s", step, self._step)
        self._step = step or self._step

    def close(self) -> None:
        """Stop the threads and close the files."""
        self._steering.close()
        self._completer.close()
        self._in_flight.close()
        if self.traces is not None:
            self.traces.close()

    def _fail_open(self, record: Record, reason: str) -> None:
        # A request that was randomised stays in its arm: to leave it out of the savings because of
        # what came after the lottery would bias them.
        record.reason, record.applied = reason, True
        record.directive, record.probability = "none", 1.0
        self.metrics.fail_open.labels(reason).inc()
