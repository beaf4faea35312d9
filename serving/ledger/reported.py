"""Estimates the energy of requests that callers sent themselves, from the outcomes they report.

The worker that takes a report need not be the one that decided the request, so only the keeper,
which has the record, can estimate it.
"""

from prometheus_client import CollectorRegistry, Counter

from envs.errors import SproutError
from serving.ledger.database import Ledger
from serving.ledger.estimate import (
    Rates,
    footprint_model,
    manifest_rates,
    operator_rates,
    work_of,
)
from serving.ledger.manifests import Manifests
from serving.ledger.record import Amendment
from serving.settings.hook import HookConfig


class ReportedEnergy:
    """Adds joules and grams to reported outcomes.

    Raises:
        ConfigError, DataError, UnitError: the site or the operator's figures are wrong.
    """

    def __init__(
        self,
        config: HookConfig,
        ledger: Ledger,
        manifests: Manifests,
        registry: CollectorRegistry,
    ) -> None:
        self._ledger = ledger
        self._manifests = manifests
        self._own = operator_rates(config)
        self._footprint = footprint_model(config)
        self._joules = Counter(
            "sprout_reported_energy_joules", "Energy of reported requests, J", registry=registry
        )
        self._grams = Counter(
            "sprout_reported_emissions_grams",
            "Emissions of reported requests, gCO2e",
            registry=registry,
        )
        self._unknown = Counter(
            "sprout_reported_energy_unknown",
            "Reported requests whose energy is unknown",
            registry=registry,
        )

    def complete(self, amendment: Amendment) -> Amendment:
        """Return a reported outcome with its energy and emissions, where they are known."""
        changes = amendment.changes
        if changes.get("completion_tokens") is None or "energy_joules" in changes:
            return amendment
        record = self._ledger.find(amendment.decision_id)
        if record is None:
            return amendment
        rates = self._own or self._rates(record["model"])
        work = work_of(
            changes.get("prompt_tokens"),
            changes["completion_tokens"],
            record["characters"],
            record["in_flight"],
            record["directive"] if record["applied"] else "none",
        )
        if rates is None or work is None:
            return amendment
        estimate = rates.estimate(work)
        grams = estimate.grams(self._footprint, record["intensity_g_per_kwh"])
        energy = {
            "energy_joules": estimate.joules,
            "energy_method": "estimated",
            "energy_error_joules": estimate.error_joules,
            "grams": grams,
        }
        return Amendment(amendment.decision_id, changes | energy)

    def count(self, amendment: Amendment) -> None:
        """Count a completed amendment that the database has taken."""
        changes = amendment.changes
        if changes.get("completion_tokens") is None or "outcome" not in changes:
            return
        if "energy_joules" in changes:
            self._joules.inc(changes["energy_joules"])
            self._grams.inc(changes["grams"] or 0.0)
        else:
            self._unknown.inc()

    def _rates(self, model: str | None) -> Rates | None:
        """Return the rates of the bundle for a model; None if there is none."""
        manifest = self._manifests.for_model(model)
        try:
            return None if manifest is None else manifest_rates(manifest)
        except SproutError:
            # The workers refuse this bundle, and say so.
            return None
