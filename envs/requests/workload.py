"""Generated workloads of the embedded Llama: new requests, none of them twice."""

from collections.abc import Container

import numpy as np

from envs.errors import ConfigError
from envs.requests.request import Request
from envs.requests.tasks import CELLS, MODULES

MAX_TRIES = 200


def generate_requests(
    per_task: int, seed: int, *, exclude: Container[str] = (), by_cell: bool = False
) -> list[Request]:
    """Draw `per_task` requests of every generated task, spread evenly over its difficulties.

    Args:
        per_task: requests per task; with `by_cell`, requests per (task, difficulty).
        seed: the same seed gives the same requests.
        exclude: prompt hashes that must not be drawn, to keep held-out sets separate.
        by_cell: count requests per (task, difficulty) instead of per task.

    Returns:
        The requests, shuffled.

    Raises:
        ConfigError: no new question of a task was drawn in `MAX_TRIES` tries.
    """
    rng = np.random.default_rng(seed)
    requests: list[Request] = []
    drawn_hashes: set[str] = set()
    for task, difficulty in CELLS:
        grades = MODULES[task].DIFFICULTIES
        count = per_task if by_cell else _share(per_task, len(grades), grades.index(difficulty))
        for number in range(count):
            for _ in range(MAX_TRIES):
                problem = MODULES[task].sample(difficulty, rng)
                request = Request(
                    f"{task}-{difficulty}-{seed}-{number}",
                    task,
                    ({"role": "user", "content": problem.question},),
                    problem.reference,
                    difficulty,
                )
                if request.prompt_hash not in drawn_hashes and request.prompt_hash not in exclude:
                    break
            else:
                raise ConfigError(
                    f"task {task!r} difficulty {difficulty}: no new question after {number} of "
                    f"{count} (seed {seed}); ask for fewer requests"
                )
            drawn_hashes.add(request.prompt_hash)
            requests.append(request)
    return [requests[index] for index in rng.permutation(len(requests))]


def _share(total: int, parts: int, index: int) -> int:
    """Return part `index` of `total`, split as evenly as possible into `parts` integers."""
    return total // parts + (index < total % parts)
