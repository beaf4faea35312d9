"""Work that is shorter than the meter's tick: its joules are estimated or carried over, never 0."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.backends.live import LiveBackend, Recording
from envs.carbon.csv_traces import synthetic_day
from envs.clock import SteppedClock
from envs.errors import MeterError, UpstreamError
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
def test_steps_shorter_than_a_tick_have_energy_and_end_no_episode(method):
    # A step takes 4 ms, a tick 13 ms.
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
        label_at_a_tick = "attributed" if method == "measured" else "estimated"
        assert {labels[0], *labels} == {label_at_a_tick, "estimated"}
        assert labels[1] == "estimated"
        assert recording.played()[2].energy_method == "/".join(
            sorted({label_at_a_tick, "estimated"})
        )


@given(ticks, lengths)
def test_every_step_has_joules_and_its_own_seconds(tick, tokens):
    with ticking(tick) as (server, meter):
        server.tokens = lambda index: tokens[index % len(tokens)]
        live_backend = backend(server, meter)
        results = [live_backend.play(*ONE) for _ in tokens]
        assert all(result.energy_joules[0] > 0 for result in results)
        # Time is always measured, so each step has its own.
        seconds = [result.device_seconds[0] for result in results]
        assert seconds == pytest.approx([result.latency_seconds[0] for result in results])


@given(ticks, lengths)
def test_carried_joules_add_up_to_the_counters_rise(tick, tokens):
    with ticking(tick) as (server, meter):
        server.tokens = lambda index: tokens[index % len(tokens)]
        live_backend = backend(server, meter)
        calls = [live_backend.carry(*ONE) for _ in tokens]
        settled = [outcomes for call in calls for outcomes in call]
        assert sum(o.energy_joules[0] for o in settled) == pytest.approx(meter.read_joules())
        assert all(o.energy_joules[0] > 0 for o in settled)
        # Outcomes come in the order of the calls; the last calls still wait for a tick.
        waiting = next((n for n, call in enumerate(reversed(calls)) if call), len(calls))
        assert [o.completion_tokens[0] for o in settled] == tokens[: len(tokens) - waiting]


@pytest.mark.parametrize("method", ["measured", "estimated"])
@pytest.mark.parametrize("tick", [0.01, 2.0])
def test_a_counter_that_stands_still_is_an_error_and_not_an_estimate(tick, method):
    with ticking(tick, method) as (server, meter):
        live_backend = backend(server, meter)
        live_backend.play(*ONE)
        meter.stands, began = True, server.busy_seconds

        def play_until_refused():
            while True:
                assert (live_backend.play(*ONE).energy_joules > 0).all()

        with pytest.raises(MeterError, match=r"made read 0 J over .* s of work.*unavailable"):
            play_until_refused()
        # The error comes after clearly more than one tick, and within a bounded time.
        assert server.busy_seconds - began == pytest.approx(max(1.0, 4 * tick), rel=0.05)
        # A counter that never moved is an error as well.
        with pytest.raises(MeterError, match="unavailable"):
            backend(server, meter).play(*ONE)
        meter.stands = False
        assert live_backend.play(*ONE).energy_joules[0] > 0


def test_time_without_work_does_not_count_as_a_counter_that_stands_still():
    with ticking(0.01) as (server, meter):
        live_backend = backend(server, meter)
        live_backend.play(*ONE)
        for _ in range(5):
            # A training that updates its policy between two steps.
            server.clock.sleep(30)
            assert live_backend.play(*ONE).energy_joules[0] > 0


def test_the_energy_of_a_failed_call_is_charged_to_no_request():
    with ticking(0.013) as (server, meter):
        live_backend = backend(server, meter)
        assert live_backend.carry(*ONE) == []
        server.error = UpstreamError("away")
        with pytest.raises(UpstreamError):
            live_backend.carry(*ONE)
        server.error = None
        # Work that belongs to no recorded call, like that of the call that failed.
        server.chat([{}] * 100)
        first_settled = next(settled for _ in range(9) if (settled := live_backend.carry(*ONE)))
        assert sum(outcomes.energy_joules[0] for outcomes in first_settled) == pytest.approx(1.3)
