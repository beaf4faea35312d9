"""Attribution of joules to requests.

The shares always sum to the measured energy, and they are accurate on simulated servers, where the
true energy of each request is known.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.energy.attribution import Attribution
from envs.energy.meter import EnergyReading
from envs.energy.simulator import LLAMA_13B
from envs.energy.work import PASSES, Activity, work_in_windows
from experiments.bench.attribution import SETTINGS, judge

AT_32 = [name for name, setting in SETTINGS.items() if setting.at_once == 32]


def reading(start, seconds, joules):
    return EnergyReading(joules, start, seconds, "measured", "made")


requests = st.lists(
    st.tuples(
        st.floats(0, 60),  # time sent, s
        st.floats(0, 30) | st.none(),  # s to the first token; None if the answer was not streamed
        st.floats(0, 30),  # s from there to the end, or until the client left
        st.integers(0, 3000),  # prompt tokens
        st.integers(0, 500),  # completion tokens
    ),
    max_size=30,
)
# Length (s), joules and the gap to the next window (s). A gap is a missed sample, a counter that
# was reset or a clock that was set forward; a negative gap is a clock that was set back.
windows = st.lists(
    st.tuples(
        st.floats(0.2, 5),
        st.just(0.0) | st.floats(0.1, 1e4),
        st.sampled_from([0, 0, 0, 3.0, 40.0, -20.0]),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(requests, windows, st.sampled_from(["apart", "shared"]), st.floats(0, 300), st.data())
def test_shares_and_idle_energy_sum_to_the_measured_joules(
    drawn_requests, drawn_windows, idle, idle_watts, data
):
    attribution = Attribution(idle, idle_watts=data.draw(st.sampled_from([None, idle_watts])))
    settled, now, measured = [], 0.0, 0.0
    for i, (sent, first, rest, prompt, tokens) in enumerate(drawn_requests):
        first_token = None if first is None else sent + first
        end = (sent if first_token is None else first_token) + rest
        attribution.ended(Activity(str(i), sent, first_token, end, prompt, tokens))
    for seconds, joules, gap in drawn_windows:
        attribution.window(reading(now, seconds, joules))
        measured += joules
        now += seconds + gap
        if data.draw(st.booleans()):
            settled += attribution.settle(now - data.draw(st.floats(0, 20)))
    settled += attribution.settle(float("inf"))
    attributed = sum(share.joules for share in settled)
    scale = max(1.0, measured)
    assert attribution.measured_joules == pytest.approx(measured, rel=1e-9)
    assert abs(attributed + attribution.idle_joules - measured) <= 1e-6 * scale
    assert abs(attributed - attribution.attributed_joules) <= 1e-6 * scale
    assert sorted(share.key for share in settled) == sorted(
        str(i) for i in range(len(drawn_requests))
    )
    assert all(share.joules >= 0 and np.isfinite(share.error_joules) for share in settled)
    assert all(0 <= share.covered <= 1 for share in settled)


@settings(max_examples=60, deadline=None)
@given(requests, st.integers(1, 90))
def test_windows_over_all_time_hold_all_the_work(drawn_requests, count):
    activities = [
        Activity(str(i), sent, None if first is None else sent + first, sent + (first or 0) + rest,
                 prompt, tokens)
        for i, (sent, first, rest, prompt, tokens) in enumerate(drawn_requests)
    ]  # fmt: skip
    if not activities:
        return
    # Requests take their first pass before their first token.
    edges = np.linspace(-400, 200, count + 1)
    work = work_in_windows(activities, np.column_stack([edges[:-1], edges[1:]]))
    done = work.done.sum(axis=1)
    assert work.covered == pytest.approx(1.0)
    assert done[:, 0] == pytest.approx([a.prompt_tokens for a in activities])
    assert done[:, 1] == pytest.approx([max(0, a.completion_tokens - 1) for a in activities])
    assert (done >= -1e-9).all()
    # Requests share the passes of a batch, so none is charged more passes than it has tokens.
    assert (done[:, PASSES] <= [max(1, a.completion_tokens) + 1e-6 for a in activities]).all()


@pytest.fixture(scope="module")
def trials():
    """Trials by simulated server, each with 32 requests at once."""
    return {
        name: [judge(seed, SETTINGS[name], seconds=420.0) for seed in (101, 102)] for name in AT_32
    }


@pytest.mark.long
@pytest.mark.parametrize("name", AT_32)
def test_the_median_error_at_32_requests_at_once_is_below_a_tenth(trials, name):
    errors = np.abs(np.concatenate([trial.errors for trial in trials[name]]))
    assert len(errors) > 1000
    assert np.median(errors) < 0.10
    assert max(abs(trial.off) for trial in trials[name]) < 1e-6


@pytest.mark.long
def test_95_percent_intervals_hold_the_truth_about_as_often(trials):
    coverage = [trial.held.mean() for runs in trials.values() for trial in runs]
    assert 0.93 <= np.mean(coverage) <= 0.97


def test_two_equal_requests_in_turn_get_half_of_the_joules_each():
    # Two equal requests, one after the other: each gets half of the measured energy.
    attribution = Attribution(idle_watts=0.0)
    for second in range(20):
        attribution.window(reading(float(second), 1.0, 100.0 if second < 16 else 0.0))
    attribution.ended(Activity("a", 0.0, 1.0, 7.9, 50, 100))
    attribution.ended(Activity("b", 8.0, 9.0, 15.9, 50, 100))
    a, b = sorted(attribution.settle(20.0), key=lambda share: share.key)
    assert a.joules + b.joules == pytest.approx(1600.0)
    assert a.joules == pytest.approx(b.joules, rel=0.15)
    assert a.method == b.method == "attributed"


def test_idle_energy_is_kept_apart_or_shared_as_set():
    joules_by_setting = {}
    for idle in ("apart", "shared"):
        attribution = Attribution(idle)
        for second in range(40):
            busy = second >= 20
            attribution.window(reading(float(second), 1.0, 160.0 if busy else 60.0))
        attribution.ended(Activity("a", 20.0, 20.0, 40.0, 10, 400))
        (share,) = attribution.settle(40.0)
        assert attribution.idle_watts == pytest.approx(60.0)
        joules_by_setting[idle] = share.joules
    # 20 s at 100 W above idle, and 20 s at the full 160 W.
    assert joules_by_setting["apart"] == pytest.approx(2000.0, rel=0.05)
    assert joules_by_setting["shared"] == pytest.approx(3200.0, rel=0.05)


def test_time_that_no_window_covers_is_estimated_and_labelled_so():
    attribution = Attribution(idle_watts=0.0)
    for second in range(10):
        attribution.window(reading(float(second), 1.0, 100.0))
    attribution.ended(Activity("half", 0.0, 0.0, 20.0, 0, 200))
    attribution.ended(Activity("whole", 0.0, 0.0, 9.5, 0, 95))
    shares = {share.key: share for share in attribution.settle(float("inf"))}
    assert shares["half"].covered == pytest.approx(0.5, abs=0.05)
    assert shares["half"].method == "estimated"
    assert shares["half"].unmetered_joules > 0
    assert shares["whole"].method == "attributed"
    assert shares["whole"].unmetered_joules == 0


def test_a_request_that_never_ends_does_not_delay_the_others():
    attribution = Attribution(LLAMA_13B.idle_watts and "apart", idle_watts=0.0)
    attribution.ended(Activity("done", 1.0, 1.5, 3.0, 10, 20))
    for second in range(700):
        attribution.window(reading(float(second), 1.0, 10.0))
        # Another request has been in flight since time 0.
        if shares := attribution.settle(0.0):
            assert shares[0].key == "done"
            return
    pytest.fail("never settled")


def test_a_day_without_windows_adds_no_joules_to_a_request():
    attribution = Attribution(idle_watts=0.0)
    attribution.ended(Activity("all day", 0.0, 0.5, 86_402.0, 10, 100))
    for start in (0.0, 1.0, 86_400.0, 86_401.0):
        attribution.window(reading(start, 1.0, 100.0))
        assert attribution.settle(2.0) == []
    (share,) = attribution.settle(float("inf"))
    assert share.joules == pytest.approx(400.0)
    assert share.method == "estimated"


def test_a_clock_that_was_set_back_delays_no_request_and_adds_no_idle_energy():
    attribution, settled = Attribution(), []
    # 100 W of work all the time; seconds 100 to 700 are reported twice.
    for second in [*range(1300), *range(100, 700)]:
        attribution.window(reading(float(second), 1.0, 100.0))
        key = f"{second}, {len(settled)}"
        attribution.ended(Activity(key, float(second), second + 0.1, second + 0.9, 10, 20))
        if second % 5 == 0:
            settled += attribution.settle(second + 1.0)
    settled += attribution.settle(float("inf"))
    assert sum(share.covered > 0.5 for share in settled) > 1850
    assert attribution.idle_joules < 0.01 * attribution.measured_joules
    assert attribution.idle_watts is None


def test_windows_that_are_never_settled_are_dropped_in_time():
    attribution = Attribution()
    for second in range(5000):
        attribution.window(reading(float(second), 1.0, 100.0))
    assert attribution.oldest_unsettled >= 4000
    attribution.settle(float("inf"))
    assert attribution.measured_joules <= 100 * 1000


def test_unrecorded_work_does_not_raise_the_idle_power():
    attribution = Attribution()
    # Half of the windows without a request hold work that was never recorded.
    for second in range(200):
        attribution.window(reading(float(second), 1.0, 300.0 if second % 2 else 60.0))
    attribution.settle(float("inf"))
    assert attribution.idle_watts == pytest.approx(60.0)


def test_stated_idle_power_overrides_that_of_the_coefficients():
    assert Attribution(prior=LLAMA_13B).idle_watts == LLAMA_13B.idle_watts
    assert Attribution(prior=LLAMA_13B, idle_watts=0.0).idle_watts == 0.0
