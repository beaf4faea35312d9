"""Verifiable tasks that the project generates: the workload of the embedded Llama.

Each task is one module with a `TASK` name, the tuple of its `DIFFICULTIES` and
`sample(difficulty, rng) -> Problem`. Add a task by writing such a module and
listing it here.
"""

from envs.requests.tasks import arithmetic, choice, recall, sequence
from envs.requests.tasks.problem import Problem

MODULES = {module.TASK: module for module in (arithmetic, recall, choice, sequence)}
CELLS = tuple((task, level) for task, module in MODULES.items() for level in module.DIFFICULTIES)

__all__ = ["CELLS", "MODULES", "Problem"]
