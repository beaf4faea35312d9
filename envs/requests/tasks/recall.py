"""Questions that recall facts of the knowledge base.

Difficulty is the number of facts to chain: 1 asks for an attribute of a town, 2 for an
attribute of the town where a person lives.
"""

import numpy as np

from envs.requests.tasks.knowledge import PEOPLE, TOWNS, VALUES, attributes, homes
from envs.requests.tasks.problem import Problem

TASK = "recall"
DIFFICULTIES = (1, 2)

OPENINGS = (
    "",
    "Tell me: ",
    "Question: ",
    "I forgot: ",
    "Quick one: ",
    "For my notes: ",
    "Do you know? ",
    "Help me: ",
)
FORMS = (
    "What is the {kind} of {subject}?",
    "Which {kind} does {subject} have?",
    "Name the {kind} of {subject}.",
    "{subject}: what {kind}?",
    "Give the {kind} of {subject}.",
    "The {kind} of {subject} is what?",
)


def sample(difficulty: int, rng: np.random.Generator) -> Problem:
    """Draw one question that chains `difficulty` facts."""
    kind = str(rng.choice(list(VALUES)))
    opening, form = str(rng.choice(OPENINGS)), str(rng.choice(FORMS))
    if difficulty == 1:
        town = str(rng.choice(TOWNS))
        subject, full_prefix, brief_prefix = town, "", ""
    else:
        person = str(rng.choice(PEOPLE))
        town = homes()[person]
        subject = f"the town of {person}"
        full_prefix, brief_prefix = f"{person} lives in {town}. ", f"{town}: "
    answer = attributes()[town, kind]
    full = (
        f"You ask about the {kind} of {subject}. {full_prefix}{town} is a town that I know. "
        f"The {kind} of {town} is {answer}. So the answer is {answer}."
    )
    return Problem(
        TASK,
        difficulty,
        opening + form.format(kind=kind, subject=subject),
        answer,
        {"none": full, "brief": f"{brief_prefix}{kind} {answer}", "very_brief": answer},
    )
