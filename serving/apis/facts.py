"""The facts about an answer that are read from its events or its JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Most parts of a kept text, and the longest part, characters.
MOST_TEXTS = 1 << 16
LONGEST_TEXT = 1 << 20
# Longest name that a record keeps (model, fingerprint, task, tenant), characters.
LONGEST_NAME = 200
# Reasons of the APIs for an answer that reached a cap.
_CAPPED = ("length", "max_tokens", "max_output_tokens", "model_length")
FAILED, INCOMPLETE = "failed", "incomplete"


@dataclass(slots=True)
class AnswerFacts:
    """The facts about one answer, as far as it has been read.

    Attributes:
        prompt_tokens, completion_tokens: as the upstream reported them; None if it did not.
        deltas: number of events that carry a part of the answer.
        ended: whether the last event that a client waits for has come.
        failure: "failed" if the answer says that it failed, "incomplete" if it says that it was
            cut off; else empty.
        texts: parts of the first choice's text; None if it is not kept.
        model: as the answer names it; None if it does not.
        cut_off: whether the answer says that it reached a cap on its tokens.
        fingerprint: its `system_fingerprint`, of the server's build; None if it has none.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    deltas: int = 0
    ended: bool = False
    failure: str = ""
    texts: list[str] | None = None
    model: str | None = None
    fingerprint: str | None = None
    cut_off: bool = False

    def read_reason(self, reason: Any) -> None:
        """Take the reason why the answer ended."""
        if isinstance(reason, str) and reason in _CAPPED:
            self.cut_off = True

    def add_text(self, text: Any) -> None:
        """Append a part of the first choice's text, if the text is kept."""
        if self.texts is not None and isinstance(text, str) and len(self.texts) < MOST_TEXTS:
            self.texts.append(text[:LONGEST_TEXT])

    def read_model(self, data: Any) -> None:
        """Take the model and the fingerprint of an answer, or of an event that names them."""
        if (self.model is None or self.fingerprint is None) and isinstance(data, dict):
            # Some servers begin a stream with empty ones.
            self.model = self.model or text_of(data.get("model"))[:LONGEST_NAME] or None
            fingerprint = self.fingerprint or text_of(data.get("system_fingerprint"))
            self.fingerprint = fingerprint[:LONGEST_NAME] or None

    def read_usage(self, usage: Any, prompt: tuple[str, ...], completion: str) -> None:
        """Take the token counts of a usage object; a later one replaces an earlier one.

        Args:
            prompt: members whose sum is the prompt's tokens; the first one must be there.
            completion: member with the answer's tokens.
        """
        if not isinstance(usage, dict):
            return
        counts = [count_of(usage.get(name)) for name in prompt]
        if counts[0] is not None:
            self.prompt_tokens = sum(count or 0 for count in counts)
        completion_tokens = count_of(usage.get(completion))
        if completion_tokens is not None:
            self.completion_tokens = completion_tokens


def count_of(value: Any) -> int | None:
    """Return a token count, or None if the value is not one."""
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return value if is_count and 0 <= value < 1_000_000_000 else None


def items_of(value: Any) -> list[Mapping[str, Any]]:
    """Return the objects in a list; empty if the value is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text_of(value: Any) -> str:
    """Return the value if it is text, else an empty text."""
    return value if isinstance(value, str) else ""
