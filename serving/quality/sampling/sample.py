"""Samples: requests whose answers are to be judged, on their way from a worker to its parent.

A sample holds the texts of the request and the answer. It is kept in memory only, and never
written to a disk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from envs.requests.directive import Message

# Fields of a request that its answer depends on, of all routes.
_ANSWER_FIELDS = frozenset(
    (
        *("model", "messages", "input", "instructions", "prompt", "system", "suffix", "template"),
        *("max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens", "truncation"),
        *("temperature", "top_p", "top_k", "min_p", "top_a", "typical_p", "seed", "logit_bias"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "stop", "stop_sequences"),
        *("stop_token_ids", "ignore_eos", "use_beam_search", "length_penalty", "bad_words"),
        *("reasoning", "reasoning_effort", "thinking", "verbosity", "text", "chat_template"),
        *("chat_template_kwargs", "add_generation_prompt", "modalities", "echo"),
    )
)
# Types of a message's parts that are text, by API.
_TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass(slots=True, kw_only=True)
class Draft:
    """A request that was drawn for the sample, before its answer is known.

    Attributes:
        probability: probability of being drawn.
        task: task of its cell; empty if it has none that the policy knows.
        zone: zone of its cell.
        floor: least quality relative to L0 that was asked for; None if there is no floor.
        steered: whether the policy decided how the request was served; False where the guard or the
            mode kept it at L0.
        candidate: directive that the policy would have chosen at the asked floor, where the guard
            or the mode kept it from doing so; None elsewhere.
        body: the request as the caller sent it, without what its answer does not depend on.
    """

    probability: float
    task: str
    zone: str
    floor: float | None
    steered: bool
    candidate: str | None
    body: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Sample(Draft):
    """A request that was drawn for the sample, and its answer.

    Attributes:
        decision_id, decided, route, model, policy_version: as in the request's record.
        served: directive that the answer was made under.
        answer: text of the answer; None if it could not be read.
        tokens: length of the answer, tokens; None if unknown.
        joules: energy of the request, J; None if unknown.
    """

    decision_id: str
    decided: float
    route: str
    model: str
    policy_version: str
    served: str
    answer: str | None
    tokens: int | None
    joules: float | None

    def to_bytes(self) -> bytes:
        """Return the sample as JSON."""
        return orjson.dumps(self)

    @classmethod
    def from_bytes(cls, raw: bytes) -> "Sample":
        """Return the sample that `to_bytes` converted.

        Raises:
            ValueError, TypeError: it is damaged.
        """
        return cls(**orjson.loads(raw))


def is_text(messages: Sequence[Message]) -> bool:
    """Return whether a judge that reads text sees all of some messages."""
    return all(
        isinstance(part, Mapping) and part.get("type") in _TEXT_PARTS
        for message in messages
        if isinstance(content := message.get("content"), list)
        for part in content
    )


def plain_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a request that its answer depends on, for one answer in one piece.

    Names of users, metadata, and what a proxy in front has put in, such as keys, stay behind.
    """
    return {name: value for name, value in body.items() if name in _ANSWER_FIELDS}
