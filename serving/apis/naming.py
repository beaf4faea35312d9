"""The caller's own names in a request's body: of its conversation and of its user."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from serving.apis.api import Body

# Members of `metadata` that clients use for the name of a conversation.
_CONVERSATION_MEMBERS = ("conversation_id", "session_id", "thread_id", "chat_id")


class Naming(NamedTuple):
    """Names in a body, and whether it repeats the earlier turns.

    Attributes:
        conversation: the conversation's name; None if it has none.
        user: the user's name; None if it has none.
        continues: whether the server holds earlier turns, which the body does not repeat; None if
            it may.
    """

    conversation: str | None
    user: str | None
    continues: bool | None


def read_naming(body: Body) -> Naming:
    """Return the names that a body gives its conversation and its user."""
    metadata = body.get("metadata")
    members: Mapping[str, Any] = metadata if isinstance(metadata, dict) else {}
    stored = body.get("conversation")
    if isinstance(stored, dict):
        stored = stored.get("id")
    continues = True if body.get("previous_response_id") else None if stored else False
    return Naming(
        _first_text(stored, *[members.get(name) for name in _CONVERSATION_MEMBERS]),
        _first_text(body.get("safety_identifier"), body.get("user"), members.get("user_id")),
        continues,
    )


def _first_text(*values: Any) -> str | None:
    return next((value for value in values if isinstance(value, str) and value), None)
