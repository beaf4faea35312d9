import re

import numpy as np
import pytest

from envs.errors import ConfigError
from envs.requests.quality import correctness
from envs.requests.tasks import CELLS, MODULES
from envs.requests.workload import generate_requests


@pytest.mark.parametrize(("task", "difficulty"), CELLS)
def test_every_solution_is_correct_and_no_longer_than_the_one_before(task, difficulty):
    rng = np.random.default_rng(difficulty)
    for _ in range(200):
        problem = MODULES[task].sample(difficulty, rng)
        lengths = [len(text) for text in problem.solutions.values()]
        assert lengths == sorted(lengths, reverse=True)
        for text in problem.solutions.values():
            assert correctness(task, text, problem.reference) == 1.0


@pytest.mark.parametrize("difficulty", MODULES["arithmetic"].DIFFICULTIES)
def test_every_step_of_an_arithmetic_solution_is_correct(difficulty):
    rng = np.random.default_rng(difficulty)
    for _ in range(200):
        text = MODULES["arithmetic"].sample(difficulty, rng).solutions["none"]
        for left, right in re.findall(r"(\d+ [+-] \d+) = (\d+)", text):
            assert eval(left) == int(right)
            assert 0 <= int(right) <= 99


def test_a_workload_repeats_by_seed_avoids_known_prompts_and_balances_tasks():
    first, repeated = generate_requests(20, seed=3), generate_requests(20, seed=3)
    assert first == repeated
    prompt_hashes = {request.prompt_hash for request in first}
    assert len(prompt_hashes) == len(first) == 80
    later = generate_requests(20, seed=3, exclude=prompt_hashes)
    assert prompt_hashes.isdisjoint(request.prompt_hash for request in later)
    assert {r.task for r in first} == set(MODULES)
    assert sum(r.task == "arithmetic" for r in first) == 20


def test_running_out_of_new_questions_is_an_error():
    class Everything:
        def __contains__(self, item):
            return True

    with pytest.raises(ConfigError, match="no new question"):
        generate_requests(1, seed=0, exclude=Everything())
