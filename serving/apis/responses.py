"""POST /v1/responses (https://platform.openai.com/docs/api-reference/responses)."""

from collections.abc import Mapping, Sequence
from typing import Any

from envs.requests.directive import SYSTEM_ROLES, Directive, Message
from serving.apis.api import Body, checked_messages
from serving.apis.chat import read_error
from serving.apis.facts import FAILED, INCOMPLETE, AnswerFacts, items_of, text_of
from serving.apis.fixed_formats import has_fixed_format
from serving.streams.event_stream import Event

_LAST_EVENTS = {
    "response.completed": "",
    "response.incomplete": INCOMPLETE,
    "response.failed": FAILED,
    "response.cancelled": INCOMPLETE,
}
_STATES = {"incomplete": INCOMPLETE, "cancelled": INCOMPLETE, "failed": FAILED}


class Responses:
    """Responses."""

    usage_on_request = False

    def messages(self, body: Body) -> Sequence[Message]:
        """Return the instructions as a system message, then the input's messages."""
        request_input = body["input"]
        items = (
            [{"role": "user", "content": request_input}]
            if isinstance(request_input, str)
            else request_input
        )
        messages = [item for item in checked_messages(items) if "content" in item]
        if instructions := body.get("instructions"):
            messages = [{"role": "system", "content": instructions}, *messages]
        return messages

    def safe(self, body: Body) -> bool:
        """Return False for tools, fixed formats, prompt templates, agents' items, continuations."""
        text_format = (body.get("text") or {}).get("format") or {}
        items = body["input"]
        return (
            bool(items)
            and not has_fixed_format(body)
            and not body.get("prompt")
            and text_format.get("type", "text") == "text"
            and (isinstance(items, str) or _are_messages(items))
            and isinstance(body.get("instructions") or "", str)
        )

    def steer(self, body: Body, directive: Directive) -> dict[str, Any]:
        """Add the directive to the leading system messages or the instructions, or to the user."""
        items = body["input"]
        if not directive.text:
            steered = dict(body)
        elif directive.place == "user" and isinstance(items, str):
            steered = {**body, "input": directive.after(items)}
        elif isinstance(items, list) and (
            directive.place == "user" or items[0].get("role") in SYSTEM_ROLES
        ):
            steered = {**body, "input": directive.messages(items, "input_text")}
        else:
            steered = {**body, "instructions": directive.after(body.get("instructions"))}
        return directive.capped(steered, ("max_output_tokens",))

    def read_event(self, event: Event, data: Any, facts: AnswerFacts) -> None:
        """Read a delta, the last event or an error."""
        if not isinstance(data, dict):
            return
        kind = text_of(data.get("type")) or event.name.decode("latin-1")
        facts.read_model(data.get("response"))
        if kind in _LAST_EVENTS:
            facts.ended = True
            facts.failure = _LAST_EVENTS[kind] or facts.failure
            response = data.get("response")
            usage = response.get("usage") if isinstance(response, dict) else None
            self._read_reason(response, facts)
            facts.read_usage(usage, ("input_tokens",), "output_tokens")
        elif kind == "error":
            facts.failure = FAILED
        elif kind.endswith(".delta"):
            facts.deltas += 1
            if kind == "response.output_text.delta":
                facts.add_text(data.get("delta"))

    def read_answer(self, answer: Mapping[str, Any], facts: AnswerFacts) -> None:
        """Read the model, the usage, the state and the text."""
        facts.read_model(answer)
        read_error(b"", answer, facts)
        facts.failure = _STATES.get(text_of(answer.get("status")), facts.failure)
        facts.read_usage(answer.get("usage"), ("input_tokens",), "output_tokens")
        self._read_reason(answer, facts)
        for item in items_of(answer.get("output")):
            for part in items_of(item.get("content")):
                facts.add_text(part.get("text"))

    def _read_reason(self, response: Any, facts: AnswerFacts) -> None:
        details = response.get("incomplete_details") if isinstance(response, dict) else None
        if isinstance(details, dict):
            facts.read_reason(details.get("reason"))


def _are_messages(items: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the items are messages and none of them is to be continued.

    Other items come from an agent: calls, their outputs, reasoning.
    """
    return all("content" in item for item in items) and items[-1].get("role") != "assistant"
