"""Prometheus metrics of the hook, in base units."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The hook's metrics in a registry of their own."""

    def __init__(self, policy_version: str, model: str) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "sprout_requests_total",
            "Requests by directive, reason and upstream status",
            ["directive", "reason", "status"],
            registry=self._registry,
        )
        self.fail_open = Counter(
            "sprout_fail_open_total",
            "Requests passed on untouched because the hook itself failed",
            ["reason"],
            registry=self._registry,
        )
        self.upstream_errors = Counter(
            "sprout_upstream_errors_total",
            "Requests that upstream did not answer",
            registry=self._registry,
        )
        self.completion_tokens = Counter(
            "sprout_completion_tokens_total",
            "Generated tokens, as upstream reports them",
            ["directive"],
            registry=self._registry,
        )
        self.in_flight = Gauge(
            "sprout_requests_in_flight", "Requests at upstream now", registry=self._registry
        )
        self.decision_seconds = Histogram(
            "sprout_decision_duration_seconds",
            "Time to parse, decide and rewrite",
            buckets=(5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3, 2e-2, 0.1),
            registry=self._registry,
        )
        self.request_seconds = Histogram(
            "sprout_request_duration_seconds",
            "From the request's arrival to the answer's last byte",
            registry=self._registry,
        )
        self.intensity = Gauge(
            "sprout_carbon_intensity_grams_per_kwh",
            "Carbon intensity that decisions use",
            registry=self._registry,
        )
        self.intensity_age = Gauge(
            "sprout_carbon_intensity_age_seconds",
            "How long the intensity has been out of date",
            registry=self._registry,
        )
        policy = Info("sprout_policy", "The loaded policy bundle", registry=self._registry)
        policy.info({"version": policy_version, "model": model})

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self._registry)
