"""Training text of the embedded Llama: chats on the generated tasks under every directive."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from envs.requests.tasks import CELLS, MODULES
from envs.requests.tasks.knowledge import PEOPLE, TOWNS, VALUES
from experiments.llama.wordings import BRIEF, CALLERS, NONE, VERY_BRIEF

# Relative share of the chats by task. Tasks with long chains of steps are
# hardest to learn, so they get most of the text.
WEIGHTS = {"arithmetic": 2.0, "recall": 0.8, "choice": 2.0, "sequence": 1.5}


@dataclass(frozen=True)
class Chat:
    """One training chat: the rendered template up to the answer, and the answer."""

    prompt: str
    answer: str


def chats(rng: np.random.Generator) -> Iterator[Chat]:
    """Yield training chats without end, over all tasks, difficulties and directives."""
    weights = np.array([WEIGHTS[task] * (1 + 0.3 * level) for task, level in CELLS])
    weights /= weights.sum()
    while True:
        for index in rng.choice(len(CELLS), 256, p=weights):
            task, difficulty = CELLS[index]
            problem = MODULES[task].sample(difficulty, rng)
            level = str(rng.choice(["none", "brief", "very_brief"]))
            system = _system(level, rng)
            head = f"<<SYS>> {system}<</SYS>>" if system else ""
            yield Chat(
                f"<s>[INST]{head} {problem.question}[/INST]", f" {problem.solutions[level]}</s>"
            )


def _system(level: str, rng: np.random.Generator) -> str:
    """Draw a system text for a directive level; it may be empty."""
    if level == "none":
        return str(rng.choice(NONE))
    directive = str(rng.choice(BRIEF if level == "brief" else VERY_BRIEF))
    return f"{rng.choice(CALLERS)} {directive}".strip()


def tokenizer_texts(rng: np.random.Generator, n_chats: int = 30_000) -> Iterator[str]:
    """Yield text to train the tokenizer: chats, then every name and number, repeated alone."""
    stream = chats(rng)
    for _ in range(n_chats):
        chat = next(stream)
        yield chat.prompt + chat.answer
    words = [*TOWNS, *PEOPLE, *(v for values in VALUES.values() for v in values)]
    for word in (*words, *map(str, range(100))):
        yield f" {word}" * 200
