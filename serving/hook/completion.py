"""What a request's outcome leaves behind: a journal record and metrics."""

import orjson

from envs.carbon.intensity import CarbonReading
from envs.energy.coefficients import Coefficients, read_coefficients
from serving.hook.answer import AnswerOutcome, Usage
from serving.hook.policies import Policies
from serving.ledger.estimate import estimate_coefficients, footprint_model
from serving.ledger.journal import Entry, Journal, JournalFullError
from serving.ledger.record import Amendment, Record
from serving.settings.hook import HookConfig
from serving.telemetry.log import log_internal_error
from serving.telemetry.metrics import Metrics

# Policies whose rates are remembered.
_RATES = 16


class Completer:
    """Completes records and writes them. Never raises."""

    def __init__(self, config: HookConfig, policies: Policies, metrics: Metrics) -> None:
        self._config = config
        self._policies = policies
        self._metrics = metrics
        self._journal = Journal(config.state)
        self._site = footprint_model(config)
        # What is wrong with what is stated is known before the first request.
        estimate_coefficients(None, config.joules_per_token)
        file = config.coefficients
        self._calibrated = read_coefficients(file) if file is not None else None
        self._coefficients: dict[str | None, Coefficients] = {}

    def complete(self, record: Record, answer: AnswerOutcome, outcome: str) -> None:
        """Write a request's record, now that its outcome is known."""
        record.status, record.outcome = answer.status, outcome
        record.seconds_first = answer.seconds_first
        try:
            usage = answer.usage
            record.prompt_tokens = usage.prompt_tokens
            record.completion_tokens = usage.completion_tokens
            record.tokens_method = usage.method
            if usage.completion_tokens is not None:
                record.energy_joules, record.grams = self._cost(record, usage)
                record.energy_method = "estimated"
            if self._config.store_prompts:
                record.response = answer.text
        except Exception as error:
            log_internal_error("an outcome could not be read", error)
        self.write(record)
        self._metrics.finished(record)

    def report(self, reported: Amendment, usage: Usage, reading: CarbonReading) -> None:
        """Write the outcome that a caller reports, with an estimate of its cost."""
        changes = dict(reported.changes)
        if usage.completion_tokens is not None:
            only = self._policies.loaded
            model = only[0].bundle.model if only else None
            cost = self._joules(only[0].bundle.version if only else None, model, usage, 1)
            changes["energy_joules"], changes["energy_method"] = cost[0], "estimated"
            changes["tokens_method"] = usage.method
            changes["grams"] = self._site.grams(*cost, reading.g_per_kwh)
        amendment = Amendment(reported.decision_id, changes)
        self.write(amendment)
        self._metrics.reported(amendment)

    def write(self, entry: Entry) -> None:
        """Write to the journal; what cannot be written is counted."""
        try:
            self._journal.write(entry)
        except JournalFullError:
            self._metrics.unrecorded.labels("journal_full").inc()
        except Exception as error:
            self._metrics.unrecorded.labels("write_failed").inc()
            log_internal_error("a record could not be written", error)

    def usage_member(self, record: Record, usage: Usage) -> bytes:
        """What a stream's final usage says of its cost, as a JSON member."""
        joules, carbon = self._cost(record, usage)
        said = {
            "energy_joules": joules,
            "emissions_grams": carbon,
            "method": "estimated",
            "decision_id": record.decision_id,
        }
        return b'"sprout":' + orjson.dumps(said)

    def close(self) -> None:
        """Let go of the journal."""
        self._journal.close()

    def _cost(self, record: Record, usage: Usage) -> tuple[float, float | None]:
        """J, and gCO2e where the intensity is known."""
        together = record.in_flight + 1
        joules, seconds = self._joules(record.policy_version, record.model, usage, together)
        if record.intensity_g_per_kwh is None:
            return joules, None
        return joules, self._site.grams(joules, seconds, record.intensity_g_per_kwh)

    def _joules(
        self, version: str | None, model: str | None, usage: Usage, together: int
    ) -> tuple[float, float]:
        """J, and s of the device, at the rates of a policy's model."""
        rate = self._coefficients.get(version)
        if rate is None:
            decider = self._policies.for_model(model)
            bundle = decider.bundle if decider is not None else None
            rate = self._calibrated or estimate_coefficients(bundle, self._config.joules_per_token)
            if len(self._coefficients) > _RATES:
                self._coefficients.clear()
            self._coefficients[version] = rate
        return rate.cost(usage.prompt_tokens or 0, usage.completion_tokens or 0, together)
