"""POST /v1/chat/completions (https://platform.openai.com/docs/api-reference/chat)."""

from collections.abc import Mapping, Sequence
from typing import Any

from envs.requests.directive import Directive, Message
from serving.apis.api import Body, checked_messages
from serving.apis.facts import FAILED, AnswerFacts, items_of
from serving.apis.fixed_formats import has_fixed_format
from serving.streams.event_stream import Event

# Members of a chunk that carry a part of the answer; servers name reasoning differently.
_DELTAS = ("content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call")
_AGENT_ROLES = ("tool", "function")


class Chat:
    """Chat completions."""

    usage_on_request = True

    def messages(self, body: Body) -> Sequence[Message]:
        """Return the messages of the body."""
        return checked_messages(body["messages"])

    def safe(self, body: Body) -> bool:
        """Return False for tools, fixed formats, agents' loops and texts to continue."""
        messages = body["messages"]
        return (
            bool(messages)
            and not has_fixed_format(body)
            and not any(m.get("role") in _AGENT_ROLES or m.get("tools") for m in messages)
            and messages[-1].get("role") != "assistant"
        )

    def steer(self, body: Body, directive: Directive) -> dict[str, Any]:
        """Add the directive to the system text and lower the token cap."""
        return directive.body(body)

    def read_event(self, event: Event, data: Any, facts: AnswerFacts) -> None:
        """Read a chunk, the end mark [DONE], or an error."""
        if event.data is not None and event.data.strip() == b"[DONE]":
            facts.ended = True
        elif isinstance(data, dict):
            facts.read_model(data)
            read_error(event.name, data, facts)
            facts.read_usage(data.get("usage"), ("prompt_tokens",), "completion_tokens")
            for choice in items_of(data.get("choices")):
                self._read_choice(choice, facts)

    def read_answer(self, answer: Mapping[str, Any], facts: AnswerFacts) -> None:
        """Read the model, the usage and the first choice's text."""
        facts.read_model(answer)
        read_error(b"", answer, facts)
        facts.read_usage(answer.get("usage"), ("prompt_tokens",), "completion_tokens")
        for choice in items_of(answer.get("choices"))[:1]:
            facts.add_text(self._text(choice))
            facts.read_reason(choice.get("finish_reason"))

    def _read_choice(self, choice: Mapping[str, Any], facts: AnswerFacts) -> None:
        delta = choice.get("delta")
        if isinstance(delta, dict):
            facts.deltas += any(delta.get(name) for name in _DELTAS)
            if choice.get("index", 0) == 0:
                facts.add_text(delta.get("content"))
                facts.read_reason(choice.get("finish_reason"))
        if choice.get("finish_reason") == "error":
            facts.failure = FAILED

    def _text(self, choice: Mapping[str, Any]) -> Any:
        message = choice.get("message")
        return message.get("content") if isinstance(message, dict) else None


def read_error(name: bytes, data: Mapping[str, Any], facts: AnswerFacts) -> None:
    """Note that an event, or an answer of status 200, is an error."""
    if name == b"error" or data.get("error") or data.get("object") == "error":
        facts.failure = FAILED
