"""Writes a request's outcome to the journal and the metrics, with its energy and emissions."""

from typing import Any

import orjson

from serving.hook.outcome import AnswerOutcome, Usage
from serving.hook.policies import Policies
from serving.ledger.estimate import (
    Estimate,
    Rates,
    footprint_model,
    operator_rates,
    work_of,
)
from serving.ledger.journal import Entry, Journal, JournalFullError
from serving.ledger.record import Amendment, Record
from serving.settings.hook import HookConfig
from serving.telemetry.log import log_internal_error
from serving.telemetry.metrics import Metrics


class Completer:
    """Completes records and writes them; its methods never raise.

    Raises:
        ConfigError, DataError, UnitError: the site, the coefficients file or the stated energy
            per token is wrong.
    """

    def __init__(self, config: HookConfig, policies: Policies, metrics: Metrics) -> None:
        self._config = config
        self._policies = policies
        self._metrics = metrics
        self._journal = Journal(config.state)
        self._footprint = footprint_model(config)
        # These hold for every model.
        self._own = operator_rates(config)

    def complete(self, record: Record, answer: AnswerOutcome, outcome: str) -> None:
        """Fill in the outcome of a request and write its record."""
        record.status, record.outcome = answer.status, outcome
        record.seconds_first = answer.seconds_first
        record.answer_model, record.fingerprint = answer.model, answer.fingerprint
        try:
            usage = answer.usage
            record.prompt_tokens = usage.prompt_tokens
            record.completion_tokens = usage.completion_tokens
            record.tokens_method = usage.method
            if (estimate := self._estimate(record, answer.model, usage)) is not None:
                record.energy_joules, record.energy_method = estimate.joules, "estimated"
                record.energy_error_joules = estimate.error_joules
                record.grams = estimate.grams(self._footprint, record.intensity_g_per_kwh)
            if self._config.store_prompts:
                record.response = answer.text
        except Exception as error:
            log_internal_error("an answer's usage or text could not be read", error)
        self.write(record)
        self._metrics.finished(record)

    def report(self, reported: Amendment, usage: Usage) -> None:
        """Write the outcome that a caller reports; the keeper adds energy and emissions."""
        changes = dict(reported.changes)
        if usage.completion_tokens is not None:
            changes["tokens_method"] = usage.method
        amendment = Amendment(reported.decision_id, changes)
        self.write(amendment)
        self._metrics.reported(amendment)

    def write(self, entry: Entry) -> bool:
        """Write to the journal, and return True; count and log the entry if that fails."""
        try:
            self._journal.write(entry)
            return True
        except JournalFullError:
            self._metrics.unrecorded.labels("journal_full").inc()
        except Exception as error:
            self._metrics.unrecorded.labels("write_failed").inc()
            log_internal_error("a record could not be written to the journal", error)
        return False

    def usage_member(self, record: Record, model: str | None, usage: Usage) -> bytes:
        """Return the JSON member `sprout` for a stream's final usage: energy and emissions.

        Args:
            model: as the answer names it; None if it does not.
        """
        estimate = self._estimate(record, model, usage)
        member: dict[str, Any] = {"decision_id": record.decision_id}
        if estimate is not None:
            member = {
                "energy_joules": estimate.joules,
                "emissions_grams": estimate.grams(self._footprint, record.intensity_g_per_kwh),
                "method": "estimated",
            } | member
        return b'"sprout":' + orjson.dumps(member)

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def _estimate(self, record: Record, model: str | None, usage: Usage) -> Estimate | None:
        """Return a request's energy; None if its tokens or its model's rates are unknown.

        Args:
            model: as the answer names it, for a request that was not read.
        """
        work = work_of(
            usage.prompt_tokens,
            usage.completion_tokens,
            record.characters,
            record.in_flight,
            record.directive if record.applied else "none",
        )
        rates = self._rates(record.model or model)
        return None if rates is None or work is None else rates.estimate(work)

    def _rates(self, model: str | None) -> Rates | None:
        """Return the rates of a model; None if they are unknown."""
        if self._own is not None:
            return self._own
        decider = self._policies.for_model(model)
        return None if decider is None else decider.rates
