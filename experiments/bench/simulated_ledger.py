"""Simulated ledgers of conversations, of which the true saving is known."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import repeat
from typing import Any

import numpy as np

from envs.arrays import AnyArray, BoolArray, Float64Array
from serving.savings.openings import COLUMNS

DAY_SECONDS = 86400.0
# Most turns of a conversation.
_MOST_TURNS = 6
# Mean time between two turns, s.
_PAUSE_SECONDS = 1200.0
_JOULES_PER_TOKEN = (0.2, 5.0)
_PROMPT_TOKENS = 60
_JOULES_PER_KWH = 3.6e6
# Cost of an answer under the policy, relative to L0, where the policy shortens it.
_SHORTENED = 0.15
# Columns with the same value in all rows.
_SAME = {
    "keyed_by": "message",
    "mode": "on",
    "lottery": True,
    "intensity_kind": "average direct",
    "energy_method": "estimated",
    "energy_error_joules": None,
}
# Share of the answers that the policy shortens, by task.
_SHORTENED_RATIO = np.array([0.8, 0.5, 0.0])


@dataclass(frozen=True)
class Scenario:
    """The behaviour of the conversations of a simulated ledger.

    Attributes:
        title: what is special.
        conversations: number a day.
        days: length of the period.
        hold_out: share of the draws that are held out.
        follow_up: probability that a conversation goes on, after each turn.
        rebound: probability that people ask again after a shortened first answer.
        change: whether the policy changes in the middle, so that its effect halves.
        leave: probability that a client leaves in mid-answer, which then costs a third.
        lost: probability that a request's cost stays unknown.
        identical: share of the conversations that open alike, with one draw a day.
        tail: standard deviation of the logarithm of an answer's tokens.
    """

    title: str
    conversations: int = 1000
    days: int = 1
    hold_out: float = 0.1
    follow_up: float = 0.3
    rebound: float = 0.0
    change: bool = False
    leave: float = 0.0
    lost: float = 0.0
    identical: float = 0.0
    tail: float = 1.0


SCENARIOS = (
    Scenario("independent conversations"),
    Scenario("half of the people ask again after a short answer", rebound=0.5),
    Scenario("heavy tails", tail=1.5, conversations=2000),
    Scenario("few conversations, small hold-out", conversations=800, hold_out=0.06),
    Scenario("the policy changes in mid-conversation", change=True, follow_up=0.6),
    Scenario("clients that leave, costs that stay unknown", leave=0.2, lost=0.05, rebound=0.3),
    Scenario("three days, conversations across midnight", days=3, conversations=400, follow_up=0.6),
    Scenario("30% identical openings, 30 daily draws", days=30, conversations=100, identical=0.3),
    Scenario(
        "the same, half of the people ask again",
        days=30,
        conversations=100,
        identical=0.3,
        rebound=0.5,
    ),
    Scenario("the same, small hold-out", days=30, conversations=100, identical=0.3, hold_out=0.05),
)


@dataclass(frozen=True)
class _Conversations:
    """Conversations with what each would have cost in either arm.

    Attributes:
        opened: time of the opening, s from the start of the period, shape (n,).
        identical: whether the opening is the common one, shape (n,).
        task, characters: covariates, shape (n,).
        times: time of each turn, shape (n, turns).
        turns: number of turns under L0 and under the policy, shape (2, n).
        tokens: tokens of each turn under L0 and under the policy, shape (2, n, turns).
    """

    opened: Float64Array
    identical: BoolArray
    task: AnyArray
    characters: Float64Array
    times: Float64Array
    turns: AnyArray
    tokens: Float64Array

    @property
    def costs(self) -> Float64Array:
        """Joules of each turn under both arms; 0 for turns that are not taken; (2, n, turns)."""
        taken = np.arange(_MOST_TURNS) < self.turns[:, :, None]
        joules: Float64Array = (
            _JOULES_PER_TOKEN[0] * _PROMPT_TOKENS + _JOULES_PER_TOKEN[1] * self.tokens
        )
        return np.where(taken, joules, 0.0)


@cache
def true_saving(scenario: Scenario, conversations: int = 400_000) -> dict[str, float]:
    """Return the true saving of joules per conversation, and the true rebound in percent."""
    made = _make(scenario, np.random.default_rng(0), conversations)
    l0, policy = made.costs.sum(axis=(1, 2))
    turns0, turns1 = made.turns.sum(axis=1)
    per_turn = 1 - (policy / turns1) / (l0 / turns0)
    saving = 1 - policy / l0
    return {"ratio": float(saving), "rebound_pct": float(100 * (1 - saving / per_turn))}


def simulate(scenario: Scenario, seed: int) -> Iterator[Sequence[Any]]:
    """Return the rows of one ledger, with `COLUMNS`; the period starts at 0."""
    rng = np.random.default_rng([1, seed])
    made = _make(scenario, rng, scenario.days * scenario.conversations)
    count = len(made.opened)
    draw = np.where(made.identical, -1 - made.opened // DAY_SECONDS, np.arange(count)).astype(int)
    _, number = np.unique(draw, return_inverse=True)
    held_out = (rng.random(number.max() + 1) < scenario.hold_out)[number]
    arm, everyone = np.where(held_out, 0, 1), np.arange(count)
    # Conversation and turn of each row.
    row, turn = np.nonzero(np.arange(_MOST_TURNS) < made.turns[arm, everyone][:, None])
    times = made.times[row, turn]
    intensity = 300 + 150 * np.sin(2 * np.pi * times / DAY_SECONDS)
    joules = made.costs[arm, everyone][row, turn]
    known = rng.random(len(row)) >= scenario.lost
    columns = {
        "time": times,
        "conversation": draw[row].astype(str),
        "opening": turn == 0,
        "outcome": np.where(known, "completed", "client_left"),
        "hold_out": held_out[row],
        "task": np.char.add("t", made.task[row].astype(str)),
        "characters": made.characters[row],
        "intensity_g_per_kwh": intensity,
        "energy_joules": _or_none(joules, known),
        "completion_tokens": _or_none(made.tokens[arm, everyone][row, turn], known),
        "grams": _or_none(joules * intensity / _JOULES_PER_KWH, known),
    }
    same = _SAME | {"hold_out_ratio": scenario.hold_out}
    return zip(
        *(
            columns[name].tolist() if name in columns else repeat(same[name], len(row))
            for name in COLUMNS
        ),
        strict=True,
    )


def _or_none(values: Float64Array, known: BoolArray) -> AnyArray:
    """Return the values, with None where they are not known."""
    known_or_none = values.astype(object)
    known_or_none[~known] = None
    return known_or_none


def _make(scenario: Scenario, rng: np.random.Generator, count: int) -> _Conversations:
    shape = count, _MOST_TURNS
    opened = np.sort(rng.uniform(0, scenario.days * DAY_SECONDS, count))
    identical = rng.random(count) < scenario.identical
    task = np.where(identical, 0, rng.integers(0, 3, count))
    characters = np.where(identical, 5.0, np.ceil(np.exp(rng.normal(5, 1, count))))
    pauses = rng.exponential(_PAUSE_SECONDS, shape)
    pauses[:, 0] = 0
    times = opened[:, None] + np.cumsum(pauses, axis=1)
    noise = rng.normal(0, scenario.tail, shape) + rng.normal(0, 0.5, count)[:, None]
    l0 = np.ceil(20 * np.exp(noise) * (1 + task)[:, None] * np.log1p(characters)[:, None])
    l0[identical] = np.ceil(40 * np.exp(noise[identical] / 2))
    shortened = rng.random(shape) < _SHORTENED_RATIO[task][:, None]
    halved = scenario.change & (times > scenario.days * DAY_SECONDS / 2)
    effect = np.where(halved, (1 + _SHORTENED) / 2, _SHORTENED)
    tokens = np.array([l0, np.where(shortened, np.ceil(effect * l0), l0)])
    left = rng.random(shape) < scenario.leave
    tokens = np.where(left, np.ceil(tokens / 3), tokens)
    going_on = rng.random(shape) < scenario.follow_up
    more = np.minimum(1 + np.cumprod(going_on, axis=1).sum(axis=1), _MOST_TURNS)
    again = shortened[:, 0] & (rng.random(count) < scenario.rebound)
    turns = np.array([more, np.minimum(more + again, _MOST_TURNS)])
    return _Conversations(opened, identical, task, characters, times, turns, tokens)
