"""Work that is shorter than the meter's tick: estimated or carried, never 0 J, never made up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.carbon.csv_traces import synthetic_day
from envs.clock import SteppedClock
from envs.errors import MeterError, UpstreamError
from envs.live import LiveBackend, Recording
from envs.llama2 import Llama2Env
from envs.outcomes.reward import Reward
from envs.requests.directive import DEFAULT_CATALOGUE
from envs.requests.features import Featurizer
from envs.requests.workload import generate_requests
from envs.world import World
from tests.envs.energy.ticking import ticking

REQUESTS = generate_requests(4, seed=0)
TASKS = sorted({request.task for request in REQUESTS})
ONE = np.array([0]), np.array([0])
ticks = st.floats(0.002, 0.5)
lengths = st.lists(st.integers(1, 200), min_size=1, max_size=60)


def backend(server, meter, kind=LiveBackend):
    return kind(server, meter, DEFAULT_CATALOGUE, REQUESTS)


@pytest.mark.parametrize("method", ["measured", "estimated"])
def test_steps_shorter_than_a_tick_end_no_episode(method):
    # A step takes 4 ms, a tick 13.
    with ticking(0.013, method) as (server, meter):
        recording = Recording(backend(server, meter))
        reward = Reward(1.0, dict.fromkeys(TASKS, 1.0), dict.fromkeys(TASKS, 0.9))
        trace, clock = synthetic_day(), SteppedClock(60.0)
        world = World(recording, Featurizer(TASKS), trace, reward, clock, n_directives=3)
        env = Llama2Env(world)
        env.reset(seed=0)
        steps = [env.step(np.int64(0)) for _ in range(64)]
        assert [step[3] for step in steps] == [False] * 63 + [True]
        joules = np.array([step[4]["energy_joules"] for step in steps])
        labels = [step[4]["energy_method"] for step in steps]
        assert (joules > 0).all()
        # 100 W for 4 ms each.
        assert joules.mean() == pytest.approx(0.4, rel=0.1)
        moved = "attributed" if method == "measured" else "estimated"
        assert {labels[0], *labels} == {moved, "estimated"}
        assert labels[1] == "estimated"
        assert recording.played()[2].energy_method == "/".join(sorted({moved, "estimated"}))


@given(ticks, lengths)
def test_no_step_has_no_joules(tick, tokens):
    with ticking(tick) as (server, meter):
        server.tokens = lambda asked: tokens[asked % len(tokens)]
        played = backend(server, meter)
        given_out = [played.play(*ONE) for _ in tokens]
        assert all(outcomes.energy_joules[0] > 0 for outcomes in given_out)
        # Time is always measured: each step has its own.
        seconds = [outcomes.device_seconds[0] for outcomes in given_out]
        assert seconds == pytest.approx([o.latency_seconds[0] for o in given_out])


@given(ticks, lengths)
def test_what_is_carried_adds_up_to_what_the_counter_rose_by(tick, tokens):
    with ticking(tick) as (server, meter):
        server.tokens = lambda asked: tokens[asked % len(tokens)]
        played = backend(server, meter)
        calls = [played.carry(*ONE) for _ in tokens]
        found = [outcomes for call in calls for outcomes in call]
        assert sum(o.energy_joules[0] for o in found) == pytest.approx(meter.read_joules())
        assert all(o.energy_joules[0] > 0 for o in found)
        # In the order of the calls; what still waits, waits.
        waiting = next((n for n, call in enumerate(reversed(calls)) if call), len(calls))
        assert [o.completion_tokens[0] for o in found] == tokens[: len(tokens) - waiting]


@pytest.mark.parametrize("method", ["measured", "estimated"])
@pytest.mark.parametrize("tick", [0.01, 2.0])
def test_a_counter_that_stands_still_is_an_error_and_not_an_estimate(tick, method):
    with ticking(tick, method) as (server, meter):
        played = backend(server, meter)
        played.play(*ONE)
        meter.stands, began = True, server.busy_seconds

        def until_it_is_said():
            while True:
                assert (played.play(*ONE).energy_joules > 0).all()

        with pytest.raises(MeterError, match=r"made read 0 J over .* s of work.*unavailable"):
            until_it_is_said()
        # Clearly longer than its tick, and not for ever.
        assert server.busy_seconds - began == pytest.approx(max(1.0, 4 * tick), rel=0.05)
        # One that never moved is no less an error.
        with pytest.raises(MeterError, match="unavailable"):
            backend(server, meter).play(*ONE)
        meter.stands = False
        assert played.play(*ONE).energy_joules[0] > 0


def test_time_without_work_is_no_sign_of_a_counter_that_stands_still():
    with ticking(0.01) as (server, meter):
        played = backend(server, meter)
        played.play(*ONE)
        for _ in range(5):
            # A training that learns between two steps.
            server.clock.sleep(30)
            assert played.play(*ONE).energy_joules[0] > 0


def test_a_call_that_failed_is_billed_to_nobody():
    with ticking(0.013) as (server, meter):
        played = backend(server, meter)
        assert played.carry(*ONE) == []
        server.error = UpstreamError("away")
        with pytest.raises(UpstreamError):
            played.carry(*ONE)
        server.error = None
        # Work of nobody's, as of the call that failed.
        server.chat([{}] * 100)
        first = next(found for _ in range(9) if (found := played.carry(*ONE)))
        assert sum(outcomes.energy_joules[0] for outcomes in first) == pytest.approx(1.3)
