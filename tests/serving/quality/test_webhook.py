"""Alarms reach a receiver that checks their signatures, in their order, whatever happens."""

import base64
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import standardwebhooks

from envs.errors import ConfigError
from serving.ledger.database import Ledger
from serving.ledger.quality.store import QualityStore
from serving.quality.webhook import Webhook, read_secret
from tests.serving.hooks import waited

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@contextmanager
def receiver(statuses=()):
    """Yield the URL of a receiver and what it took; it answers with `statuses` first."""
    taken, left = [], list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            event = standardwebhooks.Webhook(SECRET).verify(body, dict(self.headers))
            status = left.pop(0) if left else 202
            if status < 300:
                taken.append((self.headers["webhook-id"], event))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/alarms", taken
    server.shutdown()
    server.server_close()


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr("serving.quality.webhook._ROUND_SECONDS", 0.02)
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.migrate()
    yield QualityStore(ledger)
    ledger.close()


def note(store, *names, at=None):
    for name in names:
        with store.guard() as transaction:
            transaction.note(name, at or time.time(), {"reason": "breached", "task": "faq"})


def ids(taken):
    return [event_id for event_id, _ in taken]


def test_each_alarm_is_delivered_once_and_in_order(store):
    with receiver() as (url, taken):
        webhook = Webhook(url, SECRET, store)
        note(store, "1", "2")
        assert waited(lambda: len(taken) == 2)
        note(store, "3")
        assert waited(lambda: len(taken) == 3)
        webhook.close()
    assert ids(taken) == ["1", "2", "3"]
    assert taken[0][1]["type"] == "quality.breached"
    assert taken[0][1]["data"] == {"reason": "breached", "task": "faq"}
    assert store.events(untold=True) == []


def test_an_alarm_waits_until_the_receiver_is_there_again(store):
    note(store, "1")
    with receiver([503, 500]) as (url, taken):
        webhook = Webhook(url, SECRET, store)
        assert waited(lambda: taken)
        webhook.close()
    assert ids(taken) == ["1"]


def test_an_alarm_survives_a_restart(store):
    note(store, "1")
    webhook = Webhook("http://127.0.0.1:9/", SECRET, store)
    webhook.close()
    assert [event["event_id"] for event in store.events(untold=True)] == ["1"]
    with receiver() as (url, taken):
        webhook = Webhook(url, SECRET, store)
        assert waited(lambda: taken)
        webhook.close()


def test_a_receiver_that_is_gone_gets_no_more(store):
    note(store, "1")
    with receiver([410]) as (url, taken):
        webhook = Webhook(url, SECRET, store)
        assert waited(lambda: store.events(untold=True) == [])
        webhook.close()
    assert taken == []


def test_old_events_are_no_news(store):
    note(store, "1", at=time.time() - 30 * 86400)
    note(store, "2")
    with receiver() as (url, taken):
        webhook = Webhook(url, SECRET, store)
        assert waited(lambda: taken)
        webhook.close()
    assert ids(taken) == ["2"]


@pytest.mark.parametrize(
    "text", [None, "", "secret", "whsec_", "whsec_!", "whsec_c2hvcnQ=", SECRET[6:]]
)
def test_a_secret_that_is_none_is_refused_without_showing_it(text):
    with pytest.raises(ConfigError) as error:
        read_secret(text)
    assert "SPROUT_WEBHOOK_SECRET" in str(error.value)
    assert not text or json.dumps(text) not in str(error.value)
    assert "c2hvcnQ" not in str(error.value)


def test_a_secret_of_the_standard_is_taken():
    assert read_secret(SECRET) == SECRET
