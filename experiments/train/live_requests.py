"""What a training asks a live server."""

from collections.abc import Container

import numpy as np

from envs.errors import ConfigError
from envs.outcomes.profile import Profile
from envs.requests.request import Request
from envs.requests.tasks import MODULES
from envs.requests.workload import generate_requests


def live_requests(
    profile: Profile, count: int, seed: int, exclude: Container[str] = ()
) -> list[Request]:
    """About `count` requests, as many of each of the profile's tasks.

    Of a task that can be generated they are fresh; of any other they are the profile's own,
    those whose reference lets an answer be judged.

    Args:
        exclude: prompt hashes that must not be generated.

    Raises:
        ConfigError: a task's requests can neither be generated nor judged.
    """
    per_task = -(-count // len(profile.tasks))
    chosen: list[Request] = []
    if any(task in MODULES for task in profile.tasks):
        fresh = generate_requests(per_task, seed, exclude=exclude)
        chosen += [request for request in fresh if request.task in profile.tasks]
    rng = np.random.default_rng(seed)
    for task in profile.tasks:
        if task in MODULES:
            continue
        own = [r for r in profile.requests if r.task == task and r.reference is not None]
        if not own:
            raise ConfigError(
                f"task {task!r}: its requests in the profile have no reference, so that live "
                "answers could not be judged; give references, or leave out --upstream"
            )
        chosen += [own[i] for i in rng.permutation(len(own))[:per_task]]
    return chosen
