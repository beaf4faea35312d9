"""Sequence manipulation: edit a list of words, then name its first or last item.

Difficulty is 1 + the number of edits: 1 asks about the original list, 5 about the list after
four edits. The brief solution shows only every second list.
"""

from collections.abc import Callable

import numpy as np

from envs.requests.tasks.problem import Problem

TASK = "sequence"
DIFFICULTIES = (1, 2, 3, 4, 5)

WORDS = (
    "sun map fox cat hat box jar net bell lamp rope ship fish tree leaf ring drum kite boat "
    "door rock star moon sand wolf bear duck corn milk salt"
).split()
LEADS = ("First", "Then", "Next", "Finally")
Items = list[str]
EDITS: dict[str, Callable[[Items], Items]] = {
    "move the first item to the end": lambda items: [*items[1:], items[0]],
    "drop the first item": lambda items: items[1:],
    "drop the last item": lambda items: items[:-1],
    "reverse the list": lambda items: items[::-1],
    "swap the first and last items": lambda items: [items[-1], *items[1:-1], items[0]],
}


def sample(difficulty: int, rng: np.random.Generator) -> Problem:
    """Draw one question with a list of 6 to 8 words and `difficulty` - 1 edits."""
    items = [str(w) for w in rng.choice(WORDS, int(rng.integers(6, 9)), replace=False)]
    lists: list[Items] = [items]
    edits: list[str] = []
    for _ in range(difficulty - 1):
        edit = str(rng.choice([e for e in EDITS if not edits or e != edits[-1]]))
        edits.append(edit)
        lists.append(EDITS[edit](lists[-1]))
    end = str(rng.choice(["first", "last"]))
    answer = lists[-1][0 if end == "first" else -1]
    instructions = "".join(f" {lead} {edit}." for lead, edit in zip(LEADS, edits, strict=False))
    question = f"List: {' '.join(items)}.{instructions} What is the {end} item?"
    list_texts = [" ".join(words) for words in lists]
    steps = "".join(
        f" {lead} {edit}: {text}."
        for lead, edit, text in zip(LEADS, edits, list_texts[1:], strict=False)
    )
    full = (
        f"The list is {list_texts[0]}.{steps} The {end} item is {answer}. The answer is {answer}."
    )
    every_second = [text for index, text in enumerate(list_texts[1:], 1) if index % 2 == 0]
    brief = ". ".join([*every_second, f"{end} {answer}"])
    return Problem(
        TASK,
        difficulty,
        question,
        answer,
        {"none": full, "brief": brief, "very_brief": answer},
    )
