"""OpenTelemetry spans of requests, by the GenAI semantic conventions (extra `otel`).

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/. A background thread makes each
span after its request has ended, so spans add no latency. A span is a child of the caller's span
(header `traceparent`, which the upstream receives unchanged). Spans contain no request text.
"""

import threading
from collections import deque
from typing import Any

from envs.errors import ConfigError
from serving.ledger.record import Record

_OPERATIONS = {"/v1/completions": "text_completion"}
# Most requests that wait for a flush; if there are more, the oldest are dropped.
_MAX_WAITING = 50_000
_NANOSECONDS = 1e9
# For all attempts of one export, and for shutdown: an unreachable collector must not delay either
# for longer, s.
_TIMEOUT_SECONDS = 3


class Traces:
    """Sends one span per request to a collector.

    Args:
        endpoint: URL of the collector, OTLP over HTTP, e.g. http://127.0.0.1:4318/v1/traces.
            OpenTelemetry's own variables (OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER ...) also
            apply.

    Raises:
        ConfigError: the extra `otel` is not installed.
    """

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace import SpanKind, StatusCode
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"--otlp: package {error.name!r} is not installed; pip install 'sprout-rl[otel]'"
            ) from error
        resource = Resource({"service.name": "sprout"}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=_TIMEOUT_SECONDS))
        )
        self._tracer = self._provider.get_tracer("sprout-rl")
        self._context = TraceContextTextMapPropagator()
        self._kind, self._error = SpanKind.CLIENT, StatusCode.ERROR
        self._ended: deque[tuple[Record, str | None]] = deque(maxlen=_MAX_WAITING)

    def ended(self, record: Record, parent: str | None) -> None:
        """Take a finished request; the next `flush` makes its span.

        Args:
            parent: the request's `traceparent` header; None if it had none.
        """
        self._ended.append((record, parent))

    def flush(self) -> None:
        """Make the spans of finished requests; call it outside the event loop."""
        for _ in range(len(self._ended)):
            record, parent = self._ended.popleft()
            operation = _OPERATIONS.get(record.route, "chat")
            span = self._tracer.start_span(
                f"{operation} {record.model}" if record.model else operation,
                context=self._context.extract({"traceparent": parent}) if parent else None,
                kind=self._kind,
                attributes=_attributes(record, operation),
                start_time=int(record.time * _NANOSECONDS),
            )
            if record.outcome not in ("completed", "decided"):
                span.set_status(self._error)
            span.end(int((record.time + record.seconds) * _NANOSECONDS))

    def close(self) -> None:
        """Send the remaining spans; give up after `_TIMEOUT_SECONDS`."""
        self.flush()
        shutdown = threading.Thread(target=self._provider.shutdown, daemon=True)
        shutdown.start()
        shutdown.join(_TIMEOUT_SECONDS)


def _attributes(record: Record, operation: str) -> dict[str, Any]:
    failed = record.outcome not in ("completed", "decided")
    attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": record.model,
        "gen_ai.request.stream": record.streamed,
        "gen_ai.conversation.id": record.conversation,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
        "gen_ai.response.time_to_first_chunk": record.seconds_first,
        "http.response.status_code": record.status or None,
        "error.type": record.outcome if failed else None,
        "sprout.decision_id": record.decision_id,
        "sprout.mode": record.mode,
        "sprout.directive": record.directive if record.applied else "none",
        "sprout.probability": record.probability,
        "sprout.reason": record.reason,
        "sprout.policy_version": record.policy_version,
        "sprout.decision_seconds": record.decision_seconds,
        "sprout.intensity_g_per_kwh": record.intensity_g_per_kwh,
        "sprout.energy_joules": record.energy_joules,
        "sprout.energy_method": record.energy_method,
        "sprout.emissions_grams": record.grams,
    }
    return {name: value for name, value in attributes.items() if value is not None}
