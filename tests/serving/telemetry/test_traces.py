"""Spans arrive at a collector that speaks OTLP over HTTP."""

import gzip
import sys
from http.client import IncompleteRead

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from envs.errors import ConfigError
from serving.http.relay import Relay
from serving.processes.gateway import Gateway
from tests.serving.hooks import CHAT, hook, post
from tests.serving.launch import serving
from tests.serving.upstream import served

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    def __init__(self):
        self.spans = []
        self.services = set()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event.get("body", b""), event.get("more_body")
        if (b"content-encoding", b"gzip") in scope["headers"]:
            body = gzip.decompress(body)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource_attributes = {a.key: a.value.string_value for a in group.resource.attributes}
            self.services.add(resource_attributes["service.name"])
            self.spans += [span for scope_spans in group.scope_spans for span in scope_spans.spans]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def collector():
    fake_collector = Collector()
    with served(fake_collector, lifespan="off") as url:
        fake_collector.url = f"{url}/v1/traces"
        yield fake_collector


def attributes(span):
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def test_each_request_gets_a_span_below_the_callers_own(upstream, collector, tmp_path):
    made_hook = hook(tmp_path, otlp=collector.url)
    with served(Gateway(made_hook, Relay(upstream.url))) as url:
        parent = f"00-{TRACE}-{SPAN}-01"
        headers = post(url, CHAT, {"traceparent": parent, "authorization": "Bearer sk-user"})[2]
        assert upstream.received[-1][2][b"traceparent"].decode() == parent
        upstream.mode = "refuse"
        post(url, CHAT)
        upstream.mode = "cut"
        with pytest.raises(IncompleteRead):
            post(url, CHAT)
    made_hook.close()
    first, refused, broken = collector.spans
    assert collector.services == {"sprout"}
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, SPAN)
    assert first.name == "chat made"
    first_attributes = attributes(first)
    assert first_attributes["gen_ai.operation.name"] == "chat"
    assert (
        first_attributes["gen_ai.usage.input_tokens"],
        first_attributes["gen_ai.usage.output_tokens"],
    ) == (3, 4)
    assert first_attributes["sprout.directive"] == headers["x-sprout-directive"] == "very_brief"
    assert first_attributes["sprout.decision_id"] == headers["x-sprout-decision-id"]
    assert first_attributes["sprout.energy_method"] == "estimated"
    assert first.end_time_unix_nano > first.start_time_unix_nano
    assert attributes(refused)["http.response.status_code"] == 429
    assert attributes(broken)["error.type"] == "upstream_broke"
    # No span contains the caller's key, and the attributes do not contain the prompt.
    all_spans = "".join(str(span) for span in collector.spans)
    assert "sk-user" not in all_spans
    assert CHAT["messages"][0]["content"] not in [*first_attributes.values()]


@pytest.mark.long
def test_requests_are_served_while_the_collector_is_away(upstream, folder):
    with serving(upstream.url, folder, "--otlp", "http://127.0.0.1:9/v1/traces") as server:
        assert {server.chosen() for _ in range(20)} == {"very_brief"}


def test_without_the_otel_extra_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"sprout-rl\[otel\]"):
        hook(tmp_path, otlp="http://127.0.0.1:9")
