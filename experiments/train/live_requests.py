"""The requests that a training sends to a live server."""

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
    """Return about `count` requests, divided equally among the profile's tasks.

    Tasks with a generator get new requests. Other tasks get requests of the profile that have
    a reference, because answers without a reference cannot be judged.

    Args:
        exclude: hashes of prompts that must not be generated.

    Raises:
        ConfigError: a task's requests can neither be generated nor judged.
    """
    per_task = -(-count // len(profile.tasks))
    chosen: list[Request] = []
    if any(task in MODULES for task in profile.tasks):
        generated = generate_requests(per_task, seed, exclude=exclude)
        chosen += [request for request in generated if request.task in profile.tasks]
    rng = np.random.default_rng(seed)
    for task in profile.tasks:
        if task in MODULES:
            continue
        judgeable = [r for r in profile.requests if r.task == task and r.reference is not None]
        if not judgeable:
            raise ConfigError(
                f"task {task!r}: its requests in the profile have no reference, so live answers "
                "cannot be judged; give references, or leave out --upstream"
            )
        chosen += [judgeable[i] for i in rng.permutation(len(judgeable))[:per_task]]
    return chosen
