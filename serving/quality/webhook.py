"""Sends the guard's events to a webhook, signed as https://www.standardwebhooks.com asks.

The guard's history in the database is the outbox, so no event is lost while the receiver or this
process is down. A receiver may get an event twice, with the same `webhook-id`.
"""

import base64
import binascii
import json
import logging
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import standardwebhooks

from envs.errors import ConfigError, LedgerError
from envs.http_client import Fetcher, FetchError
from serving.ledger.quality.store import QualityStore

# Variable with the secret that both sides know.
SECRET_VARIABLE = "SPROUT_WEBHOOK_SECRET"  # noqa: S105
_PREFIX = "whsec_"
_LEAST_BYTES, _MOST_BYTES = 24, 64
_TIMEOUT_SECONDS = 15.0
# Longest wait for the receiver at the end, s.
_CLOSE_SECONDS = 2.0
# Times between rounds: at first, and the longest after failures, s.
_ROUND_SECONDS, _LONGEST_SECONDS = 1.0, 300.0
# Older events are no news, s.
_NEWS_SECONDS = 3 * 86400.0
# The receiver wants no more of them (HTTP 410 Gone).
_GONE = 410
log = logging.getLogger("sprout")


def read_secret(text: str | None) -> str:
    """Return a webhook's secret.

    Args:
        text: "whsec_" and base64 of 24 to 64 bytes.

    Raises:
        ConfigError: it is missing or no such secret. The message does not contain it.
    """
    remedy = f"set {SECRET_VARIABLE} to {_PREFIX} and the base64 of {_LEAST_BYTES} or more bytes"
    if not text:
        raise ConfigError(f"--alarm-webhook: alarms are signed; {remedy}")
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith(_PREFIX) or not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        raise ConfigError(f"{SECRET_VARIABLE} is no such secret; {remedy}")
    return text


def signed_headers(secret: str, event_id: str, body: str, now: datetime) -> dict[str, str]:
    """Return the headers of one attempt to send a body."""
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": standardwebhooks.Webhook(secret).sign(event_id, now, body),
    }


def alarm_body(event: Mapping[str, Any]) -> str:
    """Return the body for an event of the guard's history."""
    data = {name: value for name, value in event.items() if name not in ("event_id", "time")}
    happened = datetime.fromtimestamp(event["time"], UTC).isoformat()
    return json.dumps({"type": f"quality.{event['reason']}", "timestamp": happened, "data": data})


class Webhook:
    """Sends events in a thread of its own, in their order, until `close` is called.

    Args:
        url: the receiver.
        secret: see `read_secret`.
        store: the guard's history.
    """

    def __init__(self, url: str, secret: str, store: QualityStore) -> None:
        self._url = url
        self._secret = secret
        self._store = store
        self._fetcher = Fetcher(_TIMEOUT_SECONDS)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sprout-alarms", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; what is not sent is sent after the next start."""
        self._ended.set()
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        wait = _ROUND_SECONDS
        while not self._ended.wait(wait):
            try:
                for event in self._store.events(untold=True, since=time.time() - _NEWS_SECONDS):
                    self._send(event)
                    self._store.told([event["event_id"]])
            except FetchError as error:
                log.error("--alarm-webhook: an alarm is not delivered yet: %s", error)
                wait = min(2 * wait, _LONGEST_SECONDS)
            except LedgerError:
                # The keeper reports it.
                wait = min(2 * wait, _LONGEST_SECONDS)
            else:
                wait = _ROUND_SECONDS

    def _send(self, event: Mapping[str, Any]) -> None:
        body = alarm_body(event)
        headers = signed_headers(self._secret, event["event_id"], body, datetime.now(UTC))
        try:
            self._fetcher.post(self._url, body.encode(), headers)
        except FetchError as error:
            if error.status != _GONE:
                raise
            log.error("--alarm-webhook: the receiver wants no more alarms (410); this one is lost")
