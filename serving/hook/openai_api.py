"""The OpenAI requests that can be steered: chat completions, completions, responses.

A class for each route reads a body's messages, tells whether a directive is safe, and adds a
directive. The directive goes after the caller's own system text, so that the server's prefix
cache of that text still hits.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import orjson

from envs.requests.directive import SYSTEM_ROLES, Directive, Message

Body = Mapping[str, Any]

# With one of these fields, a program parses the answer or the answer continues a text. A
# directive could break either.
UNSAFE_FIELDS = frozenset(
    (
        *("tools", "functions", "response_format", "structured_outputs", "guided_json"),
        *("guided_regex", "guided_choice", "guided_grammar", "grammar", "json_schema"),
        *("continue_final_message", "echo", "prompt_logprobs", "audio", "suffix"),
    )
)
# Integers that may exceed 64 bits: orjson would read them as floats and write other digits.
INEXACT_INTEGER = re.compile(rb"[:\[,]\s*-?\d{19}")


class Api(Protocol):
    """The requests of one route.

    The methods raise KeyError, TypeError, ValueError or AttributeError if the body is malformed.
    """

    def messages(self, body: Body) -> Sequence[Message]:
        """Return the request's content as chat messages."""

    def safe(self, body: Body) -> bool:
        """Return whether a directive cannot break the format of the answer."""

    def steer(self, body: Body, directive: Directive) -> dict[str, Any]:
        """Return a copy of the body with the directive's text and token cap."""


class Chat:
    """POST /v1/chat/completions (https://platform.openai.com/docs/api-reference/chat)."""

    def messages(self, body: Body) -> Sequence[Message]:
        """Return the messages of the body."""
        return _mappings(body["messages"])

    def safe(self, body: Body) -> bool:
        """Return False for tools, fixed formats and texts to continue."""
        messages = body["messages"]
        return (
            bool(messages)
            and _has_no_unsafe_field(body)
            # A tool message is part of an agent's loop. A last message by the assistant is a
            # text to continue.
            and not any(m.get("role") in ("tool", "function") for m in messages)
            and messages[-1].get("role") != "assistant"
        )

    def steer(self, body: Body, directive: Directive) -> dict[str, Any]:
        """Add the directive to the system text and lower the token cap."""
        return directive.body(body)


class Responses:
    """POST /v1/responses (https://platform.openai.com/docs/api-reference/responses)."""

    def messages(self, body: Body) -> Sequence[Message]:
        """Return the instructions as a system message, then the input's messages."""
        request_input = body["input"]
        items = (
            [{"role": "user", "content": request_input}]
            if isinstance(request_input, str)
            else request_input
        )
        messages = [item for item in _mappings(items) if "content" in item]
        if instructions := body.get("instructions"):
            messages = [{"role": "system", "content": instructions}, *messages]
        return messages

    def safe(self, body: Body) -> bool:
        """Return False for tools, fixed formats, prompt templates and agents' items."""
        text_format = (body.get("text") or {}).get("format") or {}
        items = body["input"]
        return (
            bool(items)
            and _has_no_unsafe_field(body)
            and not body.get("prompt")
            and text_format.get("type", "text") == "text"
            # Items that are not messages come from an agent: calls, their outputs, reasoning.
            and (isinstance(items, str) or all("content" in item for item in items))
            and isinstance(body.get("instructions") or "", str)
        )

    def steer(self, body: Body, directive: Directive) -> dict[str, Any]:
        """Add the directive to the leading system messages, else to the instructions."""
        items = body["input"]
        if not directive.text:
            steered = dict(body)
        elif isinstance(items, list) and items[0].get("role") in SYSTEM_ROLES:
            steered = {**body, "input": directive.messages(items, "input_text")}
        else:
            steered = {**body, "instructions": directive.after(body.get("instructions"))}
        return directive.capped(steered, ("max_output_tokens",))


class Completions:
    """POST /v1/completions with one prompt in Llama 2's chat format; others are not steered.

    The format is [INST] <<SYS>> system <</SYS>> user [/INST] answer ... (Touvron et al., 2023,
    https://github.com/meta-llama/llama, `llama/generation.py`).
    """

    def messages(self, body: Body) -> Sequence[Message]:
        """Return a prompt's system and user text; empty for several prompts or token ids."""
        prompt = body["prompt"]
        if not isinstance(prompt, str):
            return []
        before, system, after = _split_system(prompt)
        user = {"role": "user", "content": _MARKS.sub("\n", before + after).strip()}
        return [{"role": "system", "content": system.strip()}, user] if system else [user]

    def safe(self, body: Body) -> bool:
        """Return whether the body has one prompt in chat format and no fixed format."""
        prompt = body["prompt"]
        return (
            isinstance(prompt, str)
            and "[INST]" in prompt
            and prompt.rstrip().endswith("[/INST]")
            and _has_no_unsafe_field(body)
        )

    def steer(self, body: Body, directive: Directive) -> dict[str, Any]:
        """Add the directive to the system text, which is created if there is none."""
        steered = prompt = body["prompt"]
        if directive.text:
            before, system, after = _split_system(prompt)
            if not system:
                before, after = prompt.split("[INST]", 1)
                before, after = f"{before}[INST] ", after.lstrip()
            steered_system = directive.after(system.rstrip() or None).lstrip()
            steered = f"{before}<<SYS>>\n{steered_system}\n<</SYS>>\n\n{after}"
        return directive.capped({**body, "prompt": steered}, ("max_tokens",))


_MARKS = re.compile(r"<s>|</s>|\[/?INST\]")


def _split_system(prompt: str) -> tuple[str, str, str]:
    """Split a prompt into the text before the system text, the system text, and the rest.

    A prompt without system text is returned as the first part.
    """
    before, mark, rest = prompt.partition("<<SYS>>")
    system, end, after = rest.partition("<</SYS>>")
    return (before, system, after.lstrip()) if mark and end else (prompt, "", "")


APIS: Mapping[str, Api] = {
    "/v1/chat/completions": Chat(),
    "/v1/completions": Completions(),
    "/v1/responses": Responses(),
}


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


def _has_no_unsafe_field(body: Body) -> bool:
    # An empty field has no effect.
    return UNSAFE_FIELDS.isdisjoint(body) or not any(body.get(field) for field in UNSAFE_FIELDS)


def _mappings(items: Any) -> list[Message]:
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise TypeError("the messages are not a list of objects")
    return items
