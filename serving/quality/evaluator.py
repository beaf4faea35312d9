"""The evaluator: makes the answers that a comparison lacks, and asks the judges.

For a served answer that is L0's answer to the same request; for a candidate of the policy, while
the guard or the mode keeps the policy back, the candidate's answer too.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from envs.carbon.footprint import FootprintModel
from envs.errors import SproutError
from envs.http_client import Fetcher
from envs.requests.directive import Catalogue
from serving.apis.api import count_characters
from serving.apis.facts import AnswerFacts
from serving.apis.routes import APIS
from serving.ledger.estimate import Rates, footprint_model, operator_rates, work_of
from serving.ledger.in_flight import InFlight
from serving.ledger.quality.verdict import CANDIDATE, FAILED, SAME, SERVED, TIE, Verdict
from serving.ledger.record import EVALUATION, Record, new_id
from serving.quality.judges.protocol import Judge, Opinion, compared
from serving.quality.judges.reviews import Pair
from serving.quality.sample import Sample
from serving.quality.sampler import plain_body
from serving.settings.hook import HookConfig

# Variable with the key that the evaluator sends to the upstream servers.
KEY_VARIABLE = "SPROUT_EVALUATOR_KEY"
# A server that queues requests must not keep the evaluator for ever, s.
_ANSWER_SECONDS = 300.0
_NONE = "none"
log = logging.getLogger("sprout")


class Served(NamedTuple):
    """What is in use for a model.

    Attributes:
        catalogue: its directives.
        rates: energy of its requests; None if unknown.
    """

    catalogue: Catalogue
    rates: Rates | None


class MissingAnswerError(SproutError):
    """An answer that a comparison needs could not be made; the text says why."""


@dataclass
class _Answer:
    text: str
    tokens: int | None
    joules: float | None = None


class Evaluator:
    """Judges samples.

    Args:
        config: the hook's settings.
        url_of: returns the base URL of the server of a model.
        served: returns what is in use for a model; None if nothing is.
        intensity: returns the carbon intensity now, gCO2e/kWh; None if unknown.
        judges: the judges; the first one that has an opinion on a request is the one that the
            guard heeds, and the others' opinions tell how far they agree.
        show: takes each pair of answers that was judged, for people to judge too.
        write: writes the record of each answer that was made only for this, so that it has its
            share of the server's joules, and users' requests do not bear it.

    Raises:
        ConfigError, DataError, UnitError: the site or the operator's figures are wrong.
    """

    def __init__(
        self,
        config: HookConfig,
        url_of: Callable[[str], str],
        served: Callable[[str], Served | None],
        intensity: Callable[[], float | None],
        judges: Sequence[Judge],
        show: Callable[[Pair], None],
        write: Callable[[Record], None],
    ) -> None:
        self._url_of = url_of
        self._served = served
        self._intensity = intensity
        self._judges = tuple(judges)
        self._show = show
        self._write = write
        self._in_flight = InFlight(config.state)
        self._own = operator_rates(config)
        self._judge_joules = config.judge_joules_per_token
        self._site: FootprintModel = footprint_model(config)
        self._fetcher = Fetcher(_ANSWER_SECONDS)
        key = os.environ.get(KEY_VARIABLE)
        self._headers = {} if not key else {"authorization": f"Bearer {key}"}

    def close(self) -> None:
        """Note that no more answers are made."""
        self._in_flight.close()

    def publish(self) -> None:
        """Tell the energy accounts which answers are being made; call it twice a second."""
        self._in_flight.publish()

    def evaluate(self, sample: Sample) -> list[Verdict]:
        """Return the verdicts on a sample; never raises.

        A verdict that fails is one too, with the result "failed": it is counted and not guessed.
        """
        served = self._served(sample.model)
        tests = [] if sample.served == _NONE and sample.candidate else [(SERVED, sample.served)]
        if sample.candidate is not None:
            tests.append((CANDIDATE, sample.candidate))
        answers: dict[str, _Answer] = {}
        if sample.answer is not None:
            answers[sample.served] = _Answer(sample.answer, sample.tokens)
        verdicts: list[Verdict] = []
        for arm, directive in tests:
            if directive == _NONE:
                verdicts.append(_verdict(sample, arm, directive, SAME, compared(TIE)))
                continue
            try:
                if served is None or directive not in served.catalogue.names:
                    raise MissingAnswerError(f"the bundle has no directive {directive!r} any more")
                for name in (directive, _NONE):
                    if name not in answers:
                        answers[name] = self._answer(sample, name, served)
                verdicts += self._judge(sample, arm, directive, answers)
            except SproutError as error:
                log.warning("a sampled answer is not judged: %s", error)
                failed = Opinion(FAILED, None, None)
                verdicts.append(_verdict(sample, arm, directive, "none", failed))
        self._book(verdicts, [each for name, each in answers.items() if name != sample.served])
        return verdicts

    def _book(self, verdicts: Sequence[Verdict], made: Sequence[_Answer]) -> None:
        """Note in the verdicts what it took to make them; answers count once, at the first one."""
        verdicts[0].evaluation_joules = _sum(answer.joules for answer in made)
        g_per_kwh = self._intensity()
        for verdict in verdicts:
            parts = [verdict.evaluation_joules, verdict.judge_joules]
            joules = sum(part for part in parts if part is not None)
            if g_per_kwh is not None and parts != [None, None]:
                verdict.evaluation_grams = self._site.grams(joules, 0.0, g_per_kwh)

    def _judge(
        self, sample: Sample, arm: str, directive: str, answers: Mapping[str, _Answer]
    ) -> list[Verdict]:
        messages = APIS[sample.route].messages(sample.body)
        answer, l0 = answers[directive], answers[_NONE]
        verdicts: list[Verdict] = []
        for judge in self._judges:
            started = time.monotonic()
            try:
                opinion = judge.compare(messages, answer.text, l0.text)
            except SproutError as error:
                log.warning("judge %s: %s", judge.name, error)
                opinion = Opinion(FAILED, None, None)
            if opinion is None:
                continue
            verdict = _verdict(sample, arm, directive, judge.name, opinion)
            verdict.rubric, verdict.judge_seconds = judge.rubric, time.monotonic() - started
            verdict.tokens, verdict.l0_tokens = answer.tokens, l0.tokens
            verdict.heeded = not verdicts
            if opinion.tokens is not None and self._judge_joules is not None:
                verdict.judge_joules = opinion.tokens * self._judge_joules
            verdicts.append(verdict)
        if verdicts:
            self._show(Pair(verdicts[0], messages, answer.text, l0.text))
        return verdicts

    def _answer(self, sample: Sample, directive: str, served: Served) -> _Answer:
        """Return the model's answer under a directive.

        Raises:
            MissingAnswerError: there is none, or it cannot be read.
            FetchError: the server does not answer.
        """
        api, body = APIS[sample.route], plain_body(sample.body)
        if directive != _NONE:
            body = api.steer(body, served.catalogue[served.catalogue.names.index(directive)])
        url = self._url_of(sample.model) + sample.route
        record = Record(
            new_id(),
            time.time(),
            sample.route,
            model=sample.model,
            directive=directive,
            reason=EVALUATION,
            characters=count_characters(api.messages(body)),
            intensity_g_per_kwh=self._intensity(),
        )
        self._in_flight.begin(record.decision_id, record.time)
        try:
            raw = self._fetcher.post(url, orjson.dumps(body), self._headers)
            facts = AnswerFacts(texts=[])
            try:
                api.read_answer(orjson.loads(raw), facts)
            except (ValueError, TypeError, AttributeError):
                raise MissingAnswerError(f"{Fetcher.shown(url)}: the answer is no JSON") from None
            self._note(record, facts, served.rates)
            if facts.failure or not facts.texts:
                raise MissingAnswerError(f"{Fetcher.shown(url)}: the answer has no text")
        finally:
            self._in_flight.end(record.decision_id)
        return _Answer("".join(facts.texts), facts.completion_tokens, record.energy_joules)

    def _note(self, record: Record, facts: AnswerFacts, rates: Rates | None) -> None:
        """Complete and write the record of an answer that was made only for this."""
        record.status, record.outcome = 200, "completed"
        record.seconds = record.seconds_first = time.time() - record.time
        record.answer_model, record.fingerprint = facts.model, facts.fingerprint
        record.prompt_tokens, record.completion_tokens = (
            facts.prompt_tokens,
            facts.completion_tokens,
        )
        record.tokens_method = None if facts.completion_tokens is None else "reported"
        rates = self._own or rates
        work = work_of(
            facts.prompt_tokens, facts.completion_tokens, record.characters, 0, record.directive
        )
        if rates is not None and work is not None:
            estimate = rates.estimate(work)
            record.energy_joules, record.energy_method = estimate.joules, "estimated"
            record.energy_error_joules = estimate.error_joules
            record.grams = estimate.grams(self._site, record.intensity_g_per_kwh)
        self._write(record)


def _verdict(sample: Sample, arm: str, directive: str, judge: str, opinion: Opinion) -> Verdict:
    return Verdict(
        verdict_id=f"{sample.decision_id}-{arm}-{judge}",
        decision_id=sample.decision_id,
        decided=sample.decided,
        time=time.time(),
        model=sample.model,
        task=sample.task,
        zone=sample.zone,
        policy_version=sample.policy_version,
        arm=arm,
        directive=directive,
        floor=sample.floor,
        probability=sample.probability,
        judge=judge,
        rubric=None,
        result=opinion.result,
        quality=opinion.quality,
        l0_quality=opinion.l0_quality,
        consistent=opinion.consistent,
        judge_tokens=opinion.tokens,
        # Nothing was made, unless `_book` says so.
        judge_joules=0.0 if judge == SAME else None,
        evaluation_joules=0.0,
    )


def _sum(values: Any) -> float | None:
    """Return a sum; None if a part is unknown."""
    known = list(values)
    return None if None in known else float(sum(known))
