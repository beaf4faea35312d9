"""Generated tasks with verifiable answers: the workload of the embedded Llama.

Each task is one module with a `TASK` name, a tuple of `DIFFICULTIES` and a function
`sample(difficulty, rng) -> Problem`. To add a task, write such a module and list it here.
"""

from envs.requests.tasks import arithmetic, choice, recall, sequence
from envs.requests.tasks.problem import Problem

MODULES = {module.TASK: module for module in (arithmetic, recall, choice, sequence)}
CELLS = tuple((task, level) for task, module in MODULES.items() for level in module.DIFFICULTIES)

__all__ = ["CELLS", "MODULES", "Problem"]
