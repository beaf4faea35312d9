"""Multiple-choice questions about the knowledge base, answered by an option's letter.

Difficulty 1 offers two options, difficulty 2 offers four. The value of an option comes before
its letter, "heron A)", so that a model that generates the value goes on to the letter.
"""

import numpy as np

from envs.requests.tasks.knowledge import TOWNS, VALUES, attributes
from envs.requests.tasks.problem import Problem

TASK = "choice"
DIFFICULTIES = (1, 2)

LETTERS = "ABCD"
OPENINGS = ("", "Choose one. ", "Pick the right option. ", "Test question. ", "Quiz: ")


def sample(difficulty: int, rng: np.random.Generator) -> Problem:
    """Draw one question with 2 (difficulty 1) or 4 (difficulty 2) options."""
    n_options = 2 * difficulty
    town, kind = str(rng.choice(TOWNS)), str(rng.choice(list(VALUES)))
    answer = attributes()[town, kind]
    others = [value for value in VALUES[kind] if value != answer]
    options = [answer, *(str(v) for v in rng.choice(others, n_options - 1, replace=False))]
    options = [options[i] for i in rng.permutation(n_options)]
    letter = LETTERS[options.index(answer)]
    option_list = " ".join(f"{v} {mark})" for v, mark in zip(options, LETTERS, strict=False))
    question = f"{rng.choice(OPENINGS)}Which is the {kind} of {town}? {option_list}"
    verdicts = " ".join(
        f"{v} {mark}) is {'right' if mark == letter else 'wrong'}."
        for v, mark in zip(options, LETTERS, strict=False)
    )
    full = (
        f"The {kind} of {town} is {answer}. {verdicts} So it is {answer} {letter}). "
        f"The answer is {letter}."
    )
    return Problem(
        TASK,
        difficulty,
        question,
        letter,
        {"none": full, "brief": f"{answer} {letter})", "very_brief": letter},
    )
