"""Conversations: one lottery for all their turns, and what an earlier turn was given."""

import hashlib
import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import orjson

from envs.requests.directive import Message
from serving.hook.openai_api import opening

SLOTS = 1 << 18
_SLOT = struct.Struct("<QfHH")
_UNIT = 2.0**-53


class Lottery(NamedTuple):
    """Numbers uniform in [0, 1), the same in every turn and on every replica.

    They come from a keyed hash of the conversation's beginning, so no replica has to know
    what another drew.

    Attributes:
        key: the conversation's identity, 64 bits; says nothing of its text without the salt.
        later: whether this is a later turn.
    """

    key: int
    directive: float
    hold_out: float
    canary: float
    later: bool


def draw_lottery(
    salt: bytes, messages: Sequence[Message], scope: Sequence[str | None], name: str | None
) -> Lottery:
    """A request's lottery.

    Args:
        scope: what keeps conversations apart that begin alike: tenant, model.
        name: the conversation's, if the caller gave it one.
    """
    identity = name if name is not None else opening(messages)
    digest = hashlib.blake2b(orjson.dumps([scope, identity]), digest_size=32, key=salt).digest()
    key, directive, hold_out, canary = struct.unpack("<4Q", digest)
    later = any(message.get("role") == "assistant" for message in messages)
    # The last 11 bits are dropped: floats have 53.
    return Lottery(
        key,
        (directive >> 11) * _UNIT,
        (hold_out >> 11) * _UNIT,
        (canary >> 11) * _UNIT,
        later,
    )


class StickyChoice(NamedTuple):
    """What a conversation was given: action, its probability, the policy's mark (16 bits)."""

    action: int
    probability: float
    policy: int


class ConversationMemory:
    """The last directive of each conversation, shared by the workers of one machine.

    A table in shared memory with one slot for each key modulo `SLOTS`: a later conversation
    may push out an earlier one, which is then decided by the same lottery anew.

    Args:
        path: the table's file; None keeps it to this process.
    """

    def __init__(self, path: Path | None = None) -> None:
        size = SLOTS * _SLOT.size
        if path is None:
            self._table = mmap.mmap(-1, size)
            return
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # Reserved now: a full disk must not strike at a request.
            os.posix_fallocate(handle, 0, size)
            self._table = mmap.mmap(handle, size)
        finally:
            os.close(handle)

    def get(self, key: int, policy: int) -> StickyChoice | None:
        """What the conversation was given by this policy, if it is remembered."""
        found, probability, action, mark = _SLOT.unpack_from(self._table, self._place(key))
        if found != key or mark != policy or not 0 < probability <= 1:
            return None
        return StickyChoice(action, probability, mark)

    def put(self, key: int, given: StickyChoice) -> None:
        """Remember it."""
        _SLOT.pack_into(
            self._table, self._place(key), key, given.probability, given.action, given.policy
        )

    @staticmethod
    def _place(key: int) -> int:
        return key % SLOTS * _SLOT.size
