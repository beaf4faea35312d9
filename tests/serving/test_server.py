import subprocess
import sys

import pytest

from envs.carbon_reader import synthetic_day
from envs.errors import ConfigError
from serving.server import check_upstream, trace_clock


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


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8000", "http://", "http://a:99999", "http://a:b@c", "ftp://a", "http://a?b"],
)
def test_what_is_no_servers_url_is_refused_without_repeating_it(url):
    with pytest.raises(ConfigError, match="--upstream: give a URL") as error:
        check_upstream(url)
    assert "a:b" not in str(error.value)


def test_a_servers_url_is_accepted():
    for url in ("http://127.0.0.1:8000", "https://llama.example.com", "http://[::1]:80/base"):
        check_upstream(url)


def test_a_start_with_an_offset_is_that_moment():
    trace = synthetic_day()
    now = trace_clock(trace, "2024-01-02T05:00+05:00")
    assert now() == pytest.approx(trace.start + 86400, abs=60)
