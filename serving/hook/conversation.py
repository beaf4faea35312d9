"""Conversations: random numbers that all turns share, and a memory of the chosen directive."""

import hashlib
import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import orjson

from envs.requests.directive import Message
from serving.apis.api import opening

SLOTS = 1 << 18
# Key, probability, action, policy mark.
_SLOT = struct.Struct("<QfHH")
_UNIT = 2.0**-53


class Lottery(NamedTuple):
    """Random numbers of one conversation, the same in every turn and on every replica.

    They come from a keyed hash of the conversation's opening, so replicas need not exchange
    them.

    Attributes:
        key: the conversation's identity, 64 bits; reveals nothing of its text without the salt.
        directive: draws the directive; uniform in [0, 1).
        hold_out: decides whether the conversation is held out; uniform in [0, 1).
        canary: decides whether a canary steers the conversation; uniform in [0, 1).
        later: whether this request is not the conversation's first turn.
    """

    key: int
    directive: float
    hold_out: float
    canary: float
    later: bool


def draw_lottery(
    salt: bytes, messages: Sequence[Message], scope: Sequence[str | None], name: str | None
) -> Lottery:
    """Draw the random numbers of a request's conversation.

    Args:
        salt: key of the hash, shared by all replicas.
        scope: tenant and model, to tell apart conversations with the same opening.
        name: the caller's name of the conversation, used instead of its opening; None if the
            caller gave none.
    """
    identity = name if name is not None else opening(messages)
    digest = hashlib.blake2b(orjson.dumps([scope, identity]), digest_size=32, key=salt).digest()
    key, directive, hold_out, canary = struct.unpack("<4Q", digest)
    later = False
    for message in messages:
        if message.get("role") == "assistant":
            later = True
            break
    # A float has 53 bits of precision: drop the last 11 of 64.
    return Lottery(
        key,
        (directive >> 11) * _UNIT,
        (hold_out >> 11) * _UNIT,
        (canary >> 11) * _UNIT,
        later,
    )


class StickyChoice(NamedTuple):
    """The directive chosen for a conversation.

    Attributes:
        action: index of the directive.
        probability: propensity of the action when it was chosen.
        policy: mark of the policy that chose it, 16 bits.
    """

    action: int
    probability: float
    policy: int


class ConversationMemory:
    """The last directive of each conversation, shared by the workers of one machine.

    A table in shared memory, indexed by the key modulo `SLOTS`. A later conversation may
    overwrite an earlier one; the next turn of the earlier one is then decided again from the
    same random numbers.

    Args:
        path: file of the table; None keeps the table in this process.
    """

    def __init__(self, path: Path | None = None) -> None:
        size = SLOTS * _SLOT.size
        if path is None:
            self._table = mmap.mmap(-1, size)
            return
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # Reserve the space now, so that a full disk fails here and not during a request.
            os.posix_fallocate(descriptor, 0, size)
            self._table = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)

    def get(self, key: int, policy: int) -> StickyChoice | None:
        """Return this policy's choice for a conversation, or None if it is not in the table."""
        slot_key, probability, action, mark = _SLOT.unpack_from(self._table, self._offset(key))
        if slot_key != key or mark != policy or not 0 < probability <= 1:
            return None
        return StickyChoice(action, probability, mark)

    def put(self, key: int, choice: StickyChoice) -> None:
        """Remember the choice for a conversation."""
        _SLOT.pack_into(
            self._table, self._offset(key), key, choice.probability, choice.action, choice.policy
        )

    @staticmethod
    def _offset(key: int) -> int:
        return key % SLOTS * _SLOT.size
