"""POST /v1/completions (https://platform.openai.com/docs/api-reference/completions)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from envs.requests.directive import Directive, Message
from serving.apis.api import Body
from serving.apis.chat import Chat
from serving.apis.facts import FAILED, AnswerFacts
from serving.apis.fixed_formats import has_fixed_format

_MARKS = re.compile(r"<s>|</s>|\[/?INST\]")


class Completions(Chat):
    """Completions of one prompt in Llama 2's chat format; others are not steered.

    The format is [INST] <<SYS>> system <</SYS>> user [/INST] answer ... (Touvron et al., 2023,
    https://github.com/meta-llama/llama, `llama/generation.py`). Answers are like those of chats.
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
            and not has_fixed_format(body)
        )

    def steer(self, body: Body, directive: Directive) -> dict[str, Any]:
        """Add the directive to the system text, or to the last user text."""
        steered = prompt = body["prompt"]
        if directive.text and directive.place == "user":
            before, mark, after = prompt.rpartition("[/INST]")
            steered = f"{directive.after(before.rstrip())} {mark}{after}"
        elif directive.text:
            before, system, after = _split_system(prompt)
            if not system:
                before, after = prompt.split("[INST]", 1)
                before, after = f"{before}[INST] ", after.lstrip()
            steered_system = directive.after(system.rstrip() or None).lstrip()
            steered = f"{before}<<SYS>>\n{steered_system}\n<</SYS>>\n\n{after}"
        return directive.capped({**body, "prompt": steered}, ("max_tokens",))

    def _read_choice(self, choice: Mapping[str, Any], facts: AnswerFacts) -> None:
        facts.deltas += bool(choice.get("text"))
        if choice.get("index", 0) == 0:
            facts.add_text(choice.get("text"))
            facts.read_reason(choice.get("finish_reason"))
        if choice.get("finish_reason") == "error":
            facts.failure = FAILED

    def _text(self, choice: Mapping[str, Any]) -> Any:
        return choice.get("text")


def _split_system(prompt: str) -> tuple[str, str, str]:
    """Split a prompt into the text before the system text, the system text, and the rest.

    A prompt without system text is returned as the first part.
    """
    before, mark, rest = prompt.partition("<<SYS>>")
    system, end, after = rest.partition("<</SYS>>")
    return (before, system, after.lstrip()) if mark and end else (prompt, "", "")
