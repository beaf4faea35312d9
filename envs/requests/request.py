"""A request as the environments and the profile know it."""

import hashlib
import json
from dataclasses import dataclass

from envs.requests.directive import Message


@dataclass(frozen=True)
class Request:
    """One chat to be answered.

    `reference` is the known answer (a JSON list holds alternatives) or None;
    `difficulty` is the generating task's own grade, for analysis only: no policy
    ever sees it.
    """

    request_id: str
    task: str
    messages: tuple[Message, ...]
    reference: str | None = None
    difficulty: int | None = None

    @property
    def messages_json(self) -> str:
        """Canonical JSON of the chat."""
        return json.dumps(list(self.messages), ensure_ascii=False, sort_keys=True)

    @property
    def prompt_hash(self) -> str:
        """SHA-256 of the chat: the identity by which splits and overlaps are decided."""
        return hashlib.sha256(self.messages_json.encode()).hexdigest()


def in_share(prompt_hash: str, share_ratio: float, salt: str) -> bool:
    """Whether a prompt belongs to a random share, decided by its hash alone.

    The same prompt always falls on the same side, whatever file it comes from.
    """
    digest = hashlib.sha256(f"{salt}:{prompt_hash}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share_ratio
