"""Reading of the workload mix that is given with `--mix`."""

from pathlib import Path

from envs.errors import ConfigError
from envs.outcomes.profile import Profile
from envs.requests.mix import (
    Mix,
    fixed_mix,
    mix_from_job_counts,
    read_job_counts,
    read_mix,
    uniform_mix,
)

JOBS = "jobs:"


def read_named_mix(text: str, profile: Profile, known: tuple[str, ...], hours: int) -> Mix | None:
    """Return the mix given with `--mix`, or None for the profile's own shares.

    Args:
        text: "file" (the profile's own shares), "uniform", TASK=SHARE,..., jobs:FILE:SEED, or
            the path of a CSV.
        known: tasks of a uniform mix and of a mix made from job counts.
        hours: length of a mix made from job counts, hours.

    Raises:
        ConfigError, DataError: `text` is no mix, or the mix has tasks that the profile lacks.
    """
    if text == "file":
        return None
    if text == "uniform":
        return uniform_mix(known)
    if text.startswith(JOBS):
        file, _, seed = text.removeprefix(JOBS).rpartition(":")
        if not file or not seed.isdecimal():
            raise ConfigError(f"--mix {text}: give jobs:FILE:SEED")
        return mix_from_job_counts(read_job_counts(Path(file)), known, hours, int(seed))
    if Path(text).exists():
        mix = read_mix(Path(text))
    elif "=" in text:
        mix = _shares(text)
    else:
        raise ConfigError(
            f"--mix {text}: no such file; give a CSV, or file, uniform, TASK=SHARE,... or "
            "jobs:FILE:SEED"
        )
    return mix.aligned(profile.tasks, f"--mix {text}")


def _shares(text: str) -> Mix:
    try:
        pairs = [pair.split("=") for pair in text.split(",")]
        return fixed_mix({task.strip(): float(share) for task, share in pairs})
    except ValueError as error:
        raise ConfigError(f"--mix {text}: give TASK=SHARE,... ({error})") from error
