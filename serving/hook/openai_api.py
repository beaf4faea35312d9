"""The OpenAI requests that can be steered: chat completions, completions, responses.

Each says what a body asks, whether a directive is safe in it, and how one is added:
after the caller's own system text, so that a server's prefix cache keeps hitting.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import orjson

from envs.requests.directive import SYSTEM_ROLES, Directive, Message

Body = Mapping[str, Any]

# A machine parses the answer, or it continues a text: a directive could break them.
UNSAFE_FIELDS = frozenset(
    (
        *("tools", "functions", "response_format", "structured_outputs", "guided_json"),
        *("guided_regex", "guided_choice", "guided_grammar", "grammar", "json_schema"),
        *("continue_final_message", "echo", "prompt_logprobs", "audio", "suffix"),
    )
)
# Whole numbers that may be beyond 64 bits: written anew they would be others.
UNKEPT = re.compile(rb"[:\[,]\s*-?\d{19}")


class Api(Protocol):
    """One route's requests; a body that is none raises KeyError, TypeError or ValueError."""

    def messages(self, body: Body) -> Sequence[Message]:
        """What is asked, as chat messages."""

    def safe(self, body: Body) -> bool:
        """Whether a directive can do no harm to the answer's form."""

    def steer(self, body: Body, directive: Directive) -> dict[str, Any]:
        """The body with a directive's text and cap; the caller's own is not changed."""


class Chat:
    """POST /v1/chat/completions (https://platform.openai.com/docs/api-reference/chat)."""

    def messages(self, body: Body) -> Sequence[Message]:
        """See `Api`."""
        return _mappings(body["messages"])

    def safe(self, body: Body) -> bool:
        """See `Api`."""
        messages = body["messages"]
        return (
            bool(messages)
            and _plain(body)
            # A tool's turn belongs to an agent's loop; a last word of the assistant's is a
            # text to be continued.
            and not any(m.get("role") in ("tool", "function") for m in messages)
            and messages[-1].get("role") != "assistant"
        )

    def steer(self, body: Body, directive: Directive) -> dict[str, Any]:
        """See `Api`."""
        return directive.body(body)


class Responses:
    """POST /v1/responses (https://platform.openai.com/docs/api-reference/responses)."""

    def messages(self, body: Body) -> Sequence[Message]:
        """See `Api`."""
        asked = body["input"]
        turns = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        said = [turn for turn in _mappings(turns) if "content" in turn]
        if instructions := body.get("instructions"):
            said = [{"role": "system", "content": instructions}, *said]
        return said

    def safe(self, body: Body) -> bool:
        """See `Api`."""
        form = (body.get("text") or {}).get("format") or {}
        turns = body["input"]
        return (
            bool(turns)
            and _plain(body)
            and not body.get("prompt")
            and form.get("type", "text") == "text"
            # Items that are no messages are an agent's: calls, their outputs, reasoning.
            and (isinstance(turns, str) or all("content" in turn for turn in turns))
            and isinstance(body.get("instructions") or "", str)
        )

    def steer(self, body: Body, directive: Directive) -> dict[str, Any]:
        """See `Api`."""
        asked = body["input"]
        if not directive.text:
            steered = dict(body)
        elif isinstance(asked, list) and asked[0].get("role") in SYSTEM_ROLES:
            steered = {**body, "input": directive.messages(asked, "input_text")}
        else:
            steered = {**body, "instructions": directive.after(body.get("instructions"))}
        return directive.capped(steered, ("max_output_tokens",))


class Completions:
    """POST /v1/completions with one prompt in Llama 2's chat form; others are left alone.

    The form is [INST] <<SYS>> system <</SYS>> user [/INST] answer ... (Touvron et al., 2023,
    https://github.com/meta-llama/llama, `llama/generation.py`).
    """

    def messages(self, body: Body) -> Sequence[Message]:
        """See `Api`; none for several prompts, or for one in tokens."""
        prompt = body["prompt"]
        if not isinstance(prompt, str):
            return []
        before, system, asked = _parts(prompt)
        user = {"role": "user", "content": _MARKS.sub("\n", before + asked).strip()}
        return [{"role": "system", "content": system.strip()}, user] if system else [user]

    def safe(self, body: Body) -> bool:
        """See `Api`."""
        prompt = body["prompt"]
        return (
            isinstance(prompt, str)
            and "[INST]" in prompt
            and prompt.rstrip().endswith("[/INST]")
            and _plain(body)
        )

    def steer(self, body: Body, directive: Directive) -> dict[str, Any]:
        """See `Api`."""
        steered = prompt = body["prompt"]
        if directive.text:
            before, system, asked = _parts(prompt)
            if not system:
                before, asked = prompt.split("[INST]", 1)
                before, asked = f"{before}[INST] ", asked.lstrip()
            own = directive.after(system.rstrip() or None).lstrip()
            steered = f"{before}<<SYS>>\n{own}\n<</SYS>>\n\n{asked}"
        return directive.capped({**body, "prompt": steered}, ("max_tokens",))


_MARKS = re.compile(r"<s>|</s>|\[/?INST\]")


def _parts(prompt: str) -> tuple[str, str, str]:
    """What stands before the system text, the system text, and what follows it."""
    before, mark, rest = prompt.partition("<<SYS>>")
    system, end, asked = rest.partition("<</SYS>>")
    return (before, system, asked.lstrip()) if mark and end else (prompt, "", "")


APIS: Mapping[str, Api] = {
    "/v1/chat/completions": Chat(),
    "/v1/completions": Completions(),
    "/v1/responses": Responses(),
}


def parse_body(raw: bytes | Body) -> Body:
    """A body as it came, or as another server has read it already.

    Raises:
        ValueError, TypeError: no JSON, or no object.
    """
    body = orjson.loads(raw) if isinstance(raw, bytes) else raw
    if not isinstance(body, Mapping):
        raise TypeError("a body that is no object")
    return body


def count_characters(messages: Sequence[Message]) -> int:
    """Length of what is asked.

    Raises:
        TypeError: a content is neither text nor parts.
    """
    count = 0
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            count += len(content)
        elif isinstance(content, list):
            count += sum(len(str(p.get("text", ""))) for p in content if isinstance(p, dict))
        elif content is not None:
            raise TypeError("a content that is neither text nor parts")
    return count


def opening(messages: Sequence[Message]) -> Sequence[Message]:
    """A conversation's beginning, the same in all its turns: to the first of the user's."""
    for place, message in enumerate(messages):
        if message.get("role") == "user":
            return messages[: place + 1]
    return messages


def _plain(body: Body) -> bool:
    # Fields that are there but empty ask for nothing.
    return UNSAFE_FIELDS.isdisjoint(body) or not any(body.get(field) for field in UNSAFE_FIELDS)


def _mappings(turns: Any) -> list[Message]:
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise TypeError("messages that are no list of objects")
    return turns
