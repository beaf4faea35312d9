"""One generated question with its reference and a worked answer per directive."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A question whose answer can be checked by rule.

    `solutions` holds one text per level of the default catalogue (`none`,
    `brief`, `very_brief`): what the embedded Llama is trained to say under it.
    `difficulty` counts reasoning steps; what a step is, the task's module says.
    """

    task: str
    difficulty: int
    question: str
    reference: str
    solutions: dict[str, str]
