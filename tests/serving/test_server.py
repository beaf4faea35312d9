import subprocess
import sys

import pytest

from envs.carbon import synthetic_day
from envs.errors import ConfigError
from serving.server import trace_clock


def test_the_serving_path_imports_nothing_heavy():
    code = (
        "import sys, serving.server, experiments.serve\n"
        "heavy = {'torch', 'gymnasium', 'wandb', 'stable_baselines3', 'transformers', 'pyarrow',"
        " 'scipy', 'matplotlib', 'pandas', 'psutil'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_clock_must_lie_within_the_trace():
    trace = synthetic_day()
    with pytest.raises(ConfigError, match="covers 2024-01-01T00:00Z to 2024-01-03T00:00Z"):
        trace_clock(trace, None)
    with pytest.raises(ConfigError, match="clock-start 'noon'"):
        trace_clock(trace, "noon")
    now = trace_clock(trace, "2024-01-02T00:00", speed=1e6)
    assert now() > trace.start + 86400
