"""POST /v1/messages (https://docs.anthropic.com/en/api/messages), also of vLLM and Ollama."""

from collections.abc import Mapping, Sequence
from typing import Any

from envs.requests.directive import Directive, Message
from serving.apis.api import Body, checked_messages
from serving.apis.chat import read_error
from serving.apis.facts import FAILED, AnswerFacts, items_of, text_of
from serving.apis.fixed_formats import has_fixed_format
from serving.streams.event_stream import Event

# The input tokens that were read from the cache or written to it are counted apart.
_PROMPT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_AGENT_PARTS = ("tool_use", "tool_result", "server_tool_use", "mcp_tool_use", "mcp_tool_result")


class Messages:
    """Anthropic's messages."""

    usage_on_request = False

    def messages(self, body: Body) -> Sequence[Message]:
        """Return the system text as a system message, then the messages."""
        messages = checked_messages(body["messages"])
        if system := body.get("system"):
            return [{"role": "system", "content": system}, *messages]
        return messages

    def safe(self, body: Body) -> bool:
        """Return False for tools, fixed formats, agents' loops and texts to continue."""
        messages = body["messages"]
        output_format = (body.get("output_config") or {}).get("format")
        return (
            bool(messages)
            and not has_fixed_format(body)
            and output_format is None
            and isinstance(body.get("system") or "", str | list)
            and messages[-1].get("role") != "assistant"
            and not any(
                part.get("type") in _AGENT_PARTS
                for message in messages
                for part in items_of(message.get("content"))
            )
        )

    def steer(self, body: Body, directive: Directive) -> dict[str, Any]:
        """Add the directive behind the system text's cached parts, or to the last user message."""
        steered = dict(body)
        system = body.get("system")
        if directive.place == "user":
            steered["messages"] = directive.messages(body["messages"])
        elif directive.text and isinstance(system, list):
            steered["system"] = [*system, {"type": "text", "text": directive.text}]
        elif directive.text:
            steered["system"] = directive.after(system)
        thinking = body.get("thinking")
        if isinstance(thinking, dict) and thinking.get("budget_tokens"):
            # The cap must not be below the budget, which counts too.
            return steered
        return directive.capped(steered, ("max_tokens",))

    def read_event(self, event: Event, data: Any, facts: AnswerFacts) -> None:
        """Read the start, a delta, the end or an error."""
        if not isinstance(data, dict):
            return
        kind = text_of(data.get("type")) or event.name.decode("latin-1")
        if kind == "message_start":
            message = data.get("message")
            facts.read_model(message)
            usage = message.get("usage") if isinstance(message, dict) else None
            # Its output tokens are not the answer's, which has only begun.
            facts.read_usage(usage, _PROMPT, "")
        elif kind == "content_block_delta":
            facts.deltas += 1
            delta = data.get("delta")
            if isinstance(delta, dict):
                facts.add_text(delta.get("text"))
        elif kind == "message_delta":
            # The counts are cumulative.
            facts.read_usage(data.get("usage"), _PROMPT, "output_tokens")
            delta = data.get("delta")
            facts.read_reason(delta.get("stop_reason") if isinstance(delta, dict) else None)
        elif kind == "message_stop":
            facts.ended = True
        else:
            read_error(kind.encode(), data, facts)

    def read_answer(self, answer: Mapping[str, Any], facts: AnswerFacts) -> None:
        """Read the model, the usage and the text."""
        facts.read_model(answer)
        if answer.get("type") == "error":
            facts.failure = FAILED
        facts.read_usage(answer.get("usage"), _PROMPT, "output_tokens")
        facts.read_reason(answer.get("stop_reason"))
        for part in items_of(answer.get("content")):
            facts.add_text(part.get("text"))
