"""A request in the form that the environments and the profile use."""

import hashlib
import json
from dataclasses import dataclass

from envs.requests.directive import Message

FOLDS = 5


@dataclass(frozen=True)
class Request:
    """One chat to be answered.

    Attributes:
        request_id: identifier that is unique within a workload.
        task: the task's name.
        messages: the chat.
        reference: the known answer, or a JSON list of alternatives; None if unknown.
        difficulty: the generating task's difficulty grade; None if it has none. It is for
            analysis only: no policy observes it.
    """

    request_id: str
    task: str
    messages: tuple[Message, ...]
    reference: str | None = None
    difficulty: int | None = None

    @property
    def messages_json(self) -> str:
        """The chat as canonical JSON."""
        return json.dumps(list(self.messages), ensure_ascii=False, sort_keys=True)

    @property
    def prompt_hash(self) -> str:
        """SHA-256 of the chat. Splits and overlaps between data sets are decided by this hash."""
        return hashlib.sha256(self.messages_json.encode()).hexdigest()


def fold_of(request: Request) -> int:
    """Return the cross-fitting fold of a prompt, 0 to FOLDS - 1, from its hash."""
    return int(request.prompt_hash[:8], 16) % FOLDS


def in_share(prompt_hash: str, share_ratio: float, salt: str) -> bool:
    """Return whether a prompt belongs to a random share of prompts, by its hash alone.

    The same prompt falls on the same side in every file.

    Args:
        share_ratio: size of the share, 0..1.
        salt: text that selects one of many possible shares.
    """
    digest = hashlib.sha256(f"{salt}:{prompt_hash}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share_ratio
