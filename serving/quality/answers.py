"""Makes the model's answers that a comparison lacks, and books what they take."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

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
from serving.ledger.record import EVALUATION, Record, new_id
from serving.quality.sampling.sample import Sample, plain_body
from serving.settings.control import EVALUATION_HEADER, LocalControl
from serving.settings.hook import HookConfig

# Variable with the key that is sent to the upstream servers.
KEY_VARIABLE = "SPROUT_EVALUATOR_KEY"
NONE = "none"
# A server that queues requests must not keep the evaluator for ever, s.
_ANSWER_SECONDS = 300.0


class Served(NamedTuple):
    """The directives and rates in use for a model.

    Attributes:
        catalogue: its directives.
        rates: energy of its requests; None if unknown.
    """

    catalogue: Catalogue
    rates: Rates | None


class MissingAnswerError(SproutError):
    """An answer that a comparison needs could not be made; the text says why."""


@dataclass(frozen=True)
class Answer:
    """An answer to compare.

    Attributes:
        text: its text.
        tokens: its length, tokens; None if unknown.
        joules: energy that it took, J; None if unknown.
    """

    text: str
    tokens: int | None
    joules: float | None


class AnswerMaker:
    """Sends requests to the upstream servers, without a policy.

    Args:
        config: the hook's settings.
        url_of: returns the base URL of the server of a model.
        intensity: returns the carbon intensity now, gCO2e/kWh; None if unknown.
        control: the operators' settings, whose mark keeps a hook on the way from steering.
        write: takes the record of each answer, so that it has its share of the server's joules,
            and users' requests do not bear it.

    Attributes:
        site: turns joules into emissions.

    Raises:
        ConfigError, DataError, UnitError: the site or the operator's figures are wrong.
    """

    def __init__(
        self,
        config: HookConfig,
        url_of: Callable[[str], str],
        intensity: Callable[[], float | None],
        control: LocalControl,
        write: Callable[[Record], None],
    ) -> None:
        self._control = control
        self._url_of = url_of
        self._intensity = intensity
        self._write = write
        self._in_flight = InFlight(config.state, "judge")
        self._own = operator_rates(config)
        self.site: FootprintModel = footprint_model(config)
        self._fetcher = Fetcher(_ANSWER_SECONDS)
        key = os.environ.get(KEY_VARIABLE)
        self._priority = config.judge_priority
        self._headers = {} if not key else {"authorization": f"Bearer {key}"}

    def close(self) -> None:
        """Note that no more answers are made."""
        self._in_flight.close()

    def publish(self) -> None:
        """Tell the energy accounts which answers are being made; call it twice a second."""
        self._in_flight.publish()

    def make(self, sample: Sample, directive: str, served: Served) -> Answer:
        """Return the model's answer under a directive.

        Raises:
            MissingAnswerError: there is none, or it cannot be read.
            FetchError: the server does not answer.
        """
        api, body = APIS[sample.route], plain_body(sample.body)
        if directive != NONE:
            body = api.steer(body, served.catalogue[served.catalogue.names.index(directive)])
        if self._priority is not None:
            body = {**body, "priority": self._priority}
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
            mark = {EVALUATION_HEADER: self._control.stored.evaluation_mark}
            raw = self._fetcher.post(url, orjson.dumps(body), self._headers | mark)
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
        return Answer("".join(facts.texts), facts.completion_tokens, record.energy_joules)

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
            record.grams = estimate.grams(self.site, record.intensity_g_per_kwh)
        self._write(record)
