"""Runs one job in its own process: `python -m experiments.study.worker FOLDER < JOB`."""

import json
import sys
from pathlib import Path

from envs.errors import SproutError
from experiments.study.job import from_json, run
from experiments.study.pool import REFUSED_EXIT_STATUS


def main() -> int:
    """Read a job from standard input, run it in FOLDER, and return the exit status."""
    data, job = from_json(json.load(sys.stdin))
    try:
        run(data, job, Path(sys.argv[1]))
    except SproutError as error:
        print(error, file=sys.stderr)
        return REFUSED_EXIT_STATUS
    return 0


if __name__ == "__main__":
    sys.exit(main())
