"""Conversations: random numbers that all turns share, and a memory of the chosen directive."""

import hashlib
import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

from envs.requests.directive import Message
from serving.apis.api import opening
from serving.apis.naming import Naming

SLOTS = 1 << 18
DAY_SECONDS = 86400
# Days before today on which a conversation under way may have opened.
DAYS_BACK = 6
# Key, probability, action, policy mark.
_SLOT = struct.Struct("<QfHH")
# The action of a conversation that is not steered.
_UNSTEERED = 0xFFFF
_UNIT = 2.0**-53
KeyedBy = Literal["conversation", "user", "message"]


class Identity(NamedTuple):
    """The part of a request that tells its conversation from others, the same in all turns.

    Attributes:
        keyed_by: "conversation" if the caller named it, "user" if the caller named its user, else
            "message".
        digest: keyed hash of the identity; reveals nothing without the salt.
        opens: whether this is the conversation's first turn; None if the request does not tell.
    """

    keyed_by: KeyedBy
    digest: bytes
    opens: bool | None


class Lottery(NamedTuple):
    """Random numbers of one conversation, the same in every turn and on every replica.

    They come from a keyed hash, so replicas need not exchange them.

    Attributes:
        key: the draw's identity, 64 bits; reveals nothing of the text without the salt.
        directive: draws the directive; uniform in [0, 1).
        hold_out: decides whether the conversation is held out; uniform in [0, 1).
        canary: decides whether a canary steers the conversation; uniform in [0, 1).
    """

    key: int
    directive: float
    hold_out: float
    canary: float


def identify(
    salt: bytes,
    messages: Sequence[Message],
    scope: Sequence[str | None],
    naming: Naming,
    header: str | None,
) -> Identity:
    """Return the identity of a request's conversation.

    A conversation without a name is known by its opening: the messages up to the user's first one.
    Conversations with the same opening cannot be told apart, unless their users have names.

    Args:
        salt: key of the hash, shared by all replicas.
        scope: tenant and model; different ones share no conversation.
        naming: the names in the body.
        header: the name in the header, which comes first; None if there is none.
    """
    keyed_by: KeyedBy
    parts: list[Any]
    if (name := header or naming.conversation) is not None:
        keyed_by, parts = "conversation", [name]
    elif naming.user is not None:
        keyed_by, parts = "user", [naming.user, opening(messages)]
    else:
        keyed_by, parts = "message", [opening(messages)]
    text = orjson.dumps([keyed_by, scope, *parts])
    opens = None if naming.continues is None else not naming.continues
    for message in messages:
        if message.get("role") == "assistant":
            opens = False
            break
    return Identity(keyed_by, hashlib.blake2b(text, digest_size=32, key=salt).digest(), opens)


def draw_lottery(salt: bytes, identity: Identity, day: int) -> Lottery:
    """Draw the random numbers of the conversations with this identity that open on this day.

    Identical openings share one draw a day, so that over many days they are in both arms. A name
    has one draw for all days.

    Args:
        day: days since 1970-01-01 UTC.
    """
    dated = identity.digest + (b"" if identity.keyed_by == "conversation" else b"%d" % day)
    digest = hashlib.blake2b(dated, digest_size=32, key=salt).digest()
    key, directive, hold_out, canary = struct.unpack("<4Q", digest)
    # A float has 53 bits of precision: drop the last 11 of 64.
    return Lottery(key, (directive >> 11) * _UNIT, (hold_out >> 11) * _UNIT, (canary >> 11) * _UNIT)


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
        if slot_key != key or mark != policy or action == _UNSTEERED or not 0 < probability <= 1:
            return None
        return StickyChoice(action, probability, mark)

    def lottery(self, salt: bytes, identity: Identity, day: int) -> Lottery:
        """Return the draw of a request's conversation.

        A later turn has the draw of the day on which its conversation opened, if the table still
        knows that; else it has today's.
        """
        today = draw_lottery(salt, identity, day)
        if identity.opens or identity.keyed_by == "conversation" or self._knows(today.key):
            return today
        for days in range(1, DAYS_BACK + 1):
            earlier = draw_lottery(salt, identity, day - days)
            if self._knows(earlier.key):
                return earlier
        return today

    def put(self, key: int, choice: StickyChoice | None) -> None:
        """Remember a conversation and its directive; None if the policy does not steer it."""
        action, probability, mark = choice or (_UNSTEERED, 1.0, 0)
        _SLOT.pack_into(self._table, self._offset(key), key, probability, action, mark)

    def put_held_out(self, key: int, probability: float, policy: int) -> None:
        """Remember a held-out conversation, and the policy's probability of none at its opening."""
        _SLOT.pack_into(self._table, self._offset(key), key, probability, _UNSTEERED, policy)

    def held_out(self, key: int, policy: int) -> float | None:
        """Return the probability that `put_held_out` stored for this policy; None if unknown."""
        slot_key, probability, action, mark = _SLOT.unpack_from(self._table, self._offset(key))
        if slot_key != key or mark != policy or action != _UNSTEERED or not 0 <= probability <= 1:
            return None
        return float(probability)

    def _knows(self, key: int) -> bool:
        return bool(_SLOT.unpack_from(self._table, self._offset(key))[0] == key)

    @staticmethod
    def _offset(key: int) -> int:
        return key % SLOTS * _SLOT.size
