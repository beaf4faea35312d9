"""Arithmetic word problems of 1 to 5 additions and subtractions within 0..99.

Difficulty is the number of operations. The brief solution shows the working of one or two
operations. For more, it states only the result, as people do when told to be brief; without
intermediate steps, a small model gets long chains wrong.
"""

import numpy as np

from envs.requests.tasks.problem import Problem

TASK = "arithmetic"
DIFFICULTIES = (1, 2, 3, 4, 5)

NAMES = (
    "Mira Tom Ana Ben Lea Sam Ida Max Eva Leo Zoe Kim Nora Paul Rosa Finn Ella Hugo Lily Omar"
).split()
ITEMS = "apples coins books cards shells pens plums eggs stamps beads keys cups nuts figs".split()
GAINS = "buys finds wins gets picks".split()
LOSSES = "loses eats sells drops lends".split()
CONNECTORS = ("First", "Then", "Next", "Later", "Finally")


def sample(difficulty: int, rng: np.random.Generator) -> Problem:
    """Draw one problem with `difficulty` operations; every intermediate value is in 0..99."""
    name, item = rng.choice(NAMES), rng.choice(ITEMS)
    values = [int(rng.integers(5, 60))]
    clauses: list[str] = []
    operations: list[str] = []
    for connector in CONNECTORS[:difficulty]:
        amount = int(rng.integers(2, 10))
        gain = values[-1] < 10 or (values[-1] < 90 and rng.random() < 0.5)
        verb = rng.choice(GAINS if gain else LOSSES)
        values.append(values[-1] + (amount if gain else -amount))
        clauses.append(f"{connector} {name} {verb} {amount}")
        operations.append(f"{'+' if gain else '-'} {amount}")
    answer = values[-1]
    question = (
        f"{name} has {values[0]} {item}. {'. '.join(clauses)}. "
        f"How many {item} does {name} have now?"
    )
    steps = [
        f"{clause}, so {before} {operation} = {after}."
        for clause, before, operation, after in zip(
            clauses, values, operations, values[1:], strict=False
        )
    ]
    full = f"{name} has {values[0]} {item}. {' '.join(steps)} The answer is {answer}."
    return Problem(
        TASK,
        difficulty,
        question,
        str(answer),
        {
            "none": full,
            "brief": _brief(values, operations, f"{name} has {answer} {item}."),
            "very_brief": str(answer),
        },
    )


def _brief(values: list[int], operations: list[str], result: str) -> str:
    """Return the brief solution: the working if it is short, else only the result."""
    if len(operations) > 2:
        return result
    pieces = [f"{op} = {after}" for op, after in zip(operations, values[1:], strict=True)]
    return f"{values[0]} {' '.join(pieces)}"
