"""The interface of one route, and what all routes share."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import orjson

from envs.requests.directive import Directive, Message
from serving.apis.facts import AnswerFacts
from serving.streams.event_stream import Event

Body = Mapping[str, Any]
# Integers that may exceed 64 bits: orjson would read them as floats and write other digits.
INEXACT_INTEGER = re.compile(rb"[:\[,]\s*-?\d{19}")


class Api(Protocol):
    """The requests and answers of one route.

    The methods about requests raise KeyError, TypeError, ValueError or AttributeError if the body
    is malformed. Those about answers never raise: what they do not understand, they leave out.

    Attributes:
        usage_on_request: whether a stream has usage only if the request asks for it.
    """

    usage_on_request: bool

    def messages(self, body: Body) -> Sequence[Message]:
        """Return the request's content as chat messages."""

    def safe(self, body: Body) -> bool:
        """Return whether a directive cannot break the format of the answer."""

    def steer(self, body: Body, directive: Directive) -> dict[str, Any]:
        """Return a copy of the body with the directive's text and token cap."""

    def read_event(self, event: Event, data: Any, facts: AnswerFacts) -> None:
        """Add what an event says to the facts.

        Args:
            data: the event's data, parsed; None if it is not JSON.
        """

    def read_answer(self, answer: Mapping[str, Any], facts: AnswerFacts) -> None:
        """Add what an answer that is not streamed says to the facts."""


def parse_body(raw: bytes | Body) -> Body:
    """Return a request's body as an object.

    Args:
        raw: the bytes received, or the object if another server has parsed it already.

    Raises:
        ValueError: the bytes are not JSON.
        TypeError: the JSON is not an object.
    """
    body = orjson.loads(raw) if isinstance(raw, bytes) else raw
    if not isinstance(body, Mapping):
        raise TypeError("the body is not a JSON object")
    return body


def count_characters(messages: Sequence[Message]) -> int:
    """Return the total length of the messages' texts, characters.

    Raises:
        TypeError: a message's content is neither text nor a list of parts.
    """
    count = 0
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            count += len(content)
        elif isinstance(content, list):
            count += sum(len(str(p.get("text", ""))) for p in content if isinstance(p, dict))
        elif content is not None:
            raise TypeError("a message's content is neither text nor a list of parts")
    return count


def opening(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the messages up to the user's first one, the same in all turns of a conversation."""
    for index, message in enumerate(messages):
        if message.get("role") == "user":
            return messages[: index + 1]
    return messages


def checked_messages(items: Any) -> list[Message]:
    """Return a list of messages.

    Raises:
        TypeError: the value is not a list of objects.
    """
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise TypeError("the messages are not a list of objects")
    return items
