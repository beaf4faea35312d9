"""Writes a request's outcome to the journal and the metrics, with its energy and emissions."""

import orjson

from envs.carbon.intensity import CarbonReading
from envs.energy.coefficients import Coefficients, read_coefficients
from serving.hook.outcome import AnswerOutcome, Usage
from serving.hook.policies import Policies
from serving.ledger.estimate import estimate_coefficients, footprint_model
from serving.ledger.journal import Entry, Journal, JournalFullError
from serving.ledger.record import Amendment, Record
from serving.settings.hook import HookConfig
from serving.telemetry.log import log_internal_error
from serving.telemetry.metrics import Metrics

# Policy versions whose energy coefficients are cached.
_CACHED_VERSIONS = 16


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
        # Only to raise at the start, not at the first request, if the stated figure is wrong.
        estimate_coefficients(None, config.joules_per_token)
        file = config.coefficients
        self._calibrated = read_coefficients(file) if file is not None else None
        self._coefficients: dict[str | None, Coefficients] = {}

    def complete(self, record: Record, answer: AnswerOutcome, outcome: str) -> None:
        """Fill in the outcome of a request and write its record."""
        record.status, record.outcome = answer.status, outcome
        record.seconds_first = answer.seconds_first
        try:
            usage = answer.usage
            record.prompt_tokens = usage.prompt_tokens
            record.completion_tokens = usage.completion_tokens
            record.tokens_method = usage.method
            if usage.completion_tokens is not None:
                record.energy_joules, record.grams = self._energy_and_grams(record, usage)
                record.energy_method = "estimated"
            if self._config.store_prompts:
                record.response = answer.text
        except Exception as error:
            log_internal_error("an answer's usage or text could not be read", error)
        self.write(record)
        self._metrics.finished(record)

    def report(self, reported: Amendment, usage: Usage, reading: CarbonReading) -> None:
        """Write the outcome that a caller reports, with an estimate of energy and emissions."""
        changes = dict(reported.changes)
        if usage.completion_tokens is not None:
            loaded = self._policies.loaded
            model = loaded[0].bundle.model if loaded else None
            version = loaded[0].bundle.version if loaded else None
            joules, seconds = self._energy_and_seconds(version, model, usage, 1)
            changes["energy_joules"], changes["energy_method"] = joules, "estimated"
            changes["tokens_method"] = usage.method
            changes["grams"] = self._footprint.grams(joules, seconds, reading.g_per_kwh)
        amendment = Amendment(reported.decision_id, changes)
        self.write(amendment)
        self._metrics.reported(amendment)

    def write(self, entry: Entry) -> None:
        """Write to the journal; count and log the entry if that fails."""
        try:
            self._journal.write(entry)
        except JournalFullError:
            self._metrics.unrecorded.labels("journal_full").inc()
        except Exception as error:
            self._metrics.unrecorded.labels("write_failed").inc()
            log_internal_error("a record could not be written to the journal", error)

    def usage_member(self, record: Record, usage: Usage) -> bytes:
        """Return the JSON member `sprout` for a stream's final usage: energy and emissions."""
        joules, grams = self._energy_and_grams(record, usage)
        member = {
            "energy_joules": joules,
            "emissions_grams": grams,
            "method": "estimated",
            "decision_id": record.decision_id,
        }
        return b'"sprout":' + orjson.dumps(member)

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def _energy_and_grams(self, record: Record, usage: Usage) -> tuple[float, float | None]:
        """Return a request's energy in J and emissions in gCO2e.

        The emissions are None if the carbon intensity is unknown.
        """
        concurrent = record.in_flight + 1
        joules, seconds = self._energy_and_seconds(
            record.policy_version, record.model, usage, concurrent
        )
        if record.intensity_g_per_kwh is None:
            return joules, None
        return joules, self._footprint.grams(joules, seconds, record.intensity_g_per_kwh)

    def _energy_and_seconds(
        self, version: str | None, model: str | None, usage: Usage, concurrent: int
    ) -> tuple[float, float]:
        """Return a request's energy in J and its device time in s.

        Args:
            version: of the policy bundle; key of the cached coefficients.
            concurrent: requests at the server, this one included.
        """
        coefficients = self._coefficients.get(version)
        if coefficients is None:
            decider = self._policies.for_model(model)
            bundle = decider.bundle if decider is not None else None
            coefficients = self._calibrated or estimate_coefficients(
                bundle, self._config.joules_per_token
            )
            if len(self._coefficients) > _CACHED_VERSIONS:
                self._coefficients.clear()
            self._coefficients[version] = coefficients
        return coefficients.cost(usage.prompt_tokens or 0, usage.completion_tokens or 0, concurrent)
