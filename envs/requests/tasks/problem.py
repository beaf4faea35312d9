"""One generated question with its reference and a worked answer per directive."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A question whose answer can be checked by a rule.

    Attributes:
        task: the task's name.
        difficulty: number of reasoning steps, as the task's module defines them.
        question: the prompt.
        reference: the correct answer.
        solutions: directive name (`none`, `brief`, `very_brief` of the default catalogue) ->
            the answer that the embedded Llama is trained to give under this directive.
    """

    task: str
    difficulty: int
    question: str
    reference: str
    solutions: dict[str, str]
