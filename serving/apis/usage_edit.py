"""Edits of the usage in a stream's events: hide it, or add the hook's estimate to it."""

import re
from typing import Any

import orjson

from serving.apis.facts import items_of
from serving.streams.event_stream import Event, EventStream, with_data

_USAGE = re.compile(rb'"usage"\s*:\s*\{')
# Members of a chunk that has nothing but usage.
_USAGE_CHUNK = frozenset(
    (
        *("id", "object", "created", "model", "choices", "usage", "system_fingerprint"),
        *("service_tier", "obfuscation"),
    )
)


def is_final(data: dict[str, Any]) -> bool:
    """Return whether an event may have the final usage: choices, if any, are finished."""
    choices = items_of(data.get("choices"))
    return not choices or any(choice.get("finish_reason") for choice in choices)


def without_usage(event: Event, data: dict[str, Any]) -> bytes:
    """Return the bytes of an event without usage that the client did not ask for."""
    if not isinstance(data.get("usage"), dict) or data.get("choices"):
        return event.raw
    other = [name for name, value in data.items() if name not in _USAGE_CHUNK and value is not None]
    if not other:
        return b""
    kept = {name: value for name, value in data.items() if name != "usage"}
    return with_data(event, orjson.dumps(kept))


def with_member(event: Event, member: bytes) -> bytes:
    """Return the bytes of an event with a member added to the answer's usage object."""
    raw = event.raw
    if b'"sprout"' in raw:
        return raw
    for position in [match.end() for match in _USAGE.finditer(raw)][::-1]:
        edited = raw[:position] + member + b"," + raw[position:]
        try:
            data = orjson.loads(EventStream().feed(edited)[-1].data or b"")
        except (ValueError, IndexError):
            # The usage object has no members.
            continue
        # Other objects may have a member "usage" too.
        holders = (data, data.get("response"), data.get("message"))
        usages = [holder.get("usage") for holder in holders if isinstance(holder, dict)]
        if any(isinstance(usage, dict) and "sprout" in usage for usage in usages):
            return edited
    return raw
