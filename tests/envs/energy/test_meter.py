import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.carbon.footprint import EMBODIED_G_PER_SECOND, footprint_grams
from envs.energy.meter import Window, busy_seconds, split_by_tokens
from envs.energy.meters.cpu_time import CpuTimeMeter
from envs.errors import MeterError

counts = st.lists(st.integers(0, 500), min_size=1, max_size=40)


@given(st.floats(1e-6, 1e6), counts, st.data())
def test_shares_by_tokens_sum_to_the_joules_that_were_split(joules, completion, data):
    prompt = data.draw(
        st.lists(st.integers(0, 500), min_size=len(completion), max_size=len(completion))
    )
    shares = split_by_tokens(
        joules, np.array(prompt, dtype=float), np.array(completion, dtype=float)
    )
    assert shares.sum() == pytest.approx(joules, rel=1e-9)
    assert (shares >= 0).all()


@given(st.integers(1, 200), st.integers(0, 200))
def test_more_tokens_never_cost_less(tokens, more):
    shares = split_by_tokens(
        1.0, np.array([5.0, 5.0]), np.array([tokens, tokens + more], dtype=float)
    )
    assert shares[1] >= shares[0]


def test_the_processor_time_meter_counts_work():
    meter = CpuTimeMeter(os.getpid(), watts_per_core=10.0)
    window = Window(meter)
    while meter.read_joules() - window._joules < 0.3:
        sum(range(10_000))
    reading = window.close()
    assert reading.method == "estimated"
    assert 0.3 <= reading.joules <= 10.0 * os.cpu_count() * (reading.seconds + 0.1)


def test_a_meter_that_does_not_move_is_unavailable():
    class Stuck:
        method, source, devices = "measured", "stuck", ("stuck",)
        error_ratio, tick_seconds = 0.0, 0.0

        def read_joules(self):
            return 5.0

    with pytest.raises(MeterError, match="unavailable"):
        Window(Stuck()).close()


def test_the_footprint_follows_sprouts_published_formula():
    # 1 kWh at 100 g/kWh for 1000 s; k1 (embodied carbon) is that of SPROUT's artifact.
    assert footprint_grams(3.6e6, 1000.0, 100.0) == pytest.approx(100 + 0.16715, rel=1e-4)
    assert pytest.approx(1.6715e-4, rel=1e-4) == EMBODIED_G_PER_SECOND
    assert footprint_grams(3.6e6, 0.0, 100.0, pue=1.5) == pytest.approx(150)


def test_the_device_is_busy_while_any_request_is_in_flight():
    starts = np.array([0.0, 1.0, 5.0, 5.5])
    ends = np.array([2.0, 1.5, 6.0, 5.7])
    assert busy_seconds(starts, ends) == pytest.approx(3.0)
    assert busy_seconds(starts[::-1].copy(), ends[::-1].copy()) == pytest.approx(3.0)


def test_processes_metered_together_add_up():
    one, twice = (
        CpuTimeMeter(os.getpid(), watts_per_core=4.0),
        CpuTimeMeter(os.getpid(), os.getpid(), watts_per_core=4.0),
    )
    before, both, after = one.read_joules(), twice.read_joules(), one.read_joules()
    assert 2 * before <= both <= 2 * after
