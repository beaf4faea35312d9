import numpy as np
import pytest

from envs.errors import DataError
from envs.requests.arrivals import ArrivalClock, read_arrivals
from tests import made


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "arrivals.csv"
    path.write_text(made.ARRIVALS)
    return path


def test_the_load_counts_requests_that_have_arrived_and_not_ended(path):
    arrivals = read_arrivals(path, seconds_per_token=0.01)
    # The first takes 1.9 s, so it overlaps the second (at 1.5 s, 1 s long); at 2 s it has ended.
    assert arrivals.in_flight.tolist() == [0, 1, 1, 0]
    assert arrivals.gaps_seconds.tolist() == [1.5, 0.5, 7.0, 3.0]


def test_the_clock_repeats_the_trace_and_a_restart_resets_only_its_time(path):
    clock = ArrivalClock(read_arrivals(path, seconds_per_token=0.01))
    times_and_loads = []
    for _ in range(5):
        times_and_loads.append((clock.elapsed_seconds(), clock.in_flight()))
        clock.advance()
    assert times_and_loads == [(0, 0), (1.5, 1), (2, 1), (9, 0), (12, 0)]
    clock.restart()
    assert clock.elapsed_seconds() == 0
    assert clock.in_flight() == 1


def test_the_published_arrivals_are_read(shared_data):
    arrivals = read_arrivals(shared_data / "azure_llm_2023_conv.csv.gz", seconds_per_token=0.02)
    assert len(arrivals.gaps_seconds) == 19366
    assert np.all(arrivals.gaps_seconds >= 0)
    # Little's law: mean load = arrival rate x mean time in service.
    hours = arrivals.gaps_seconds.sum() / 3600
    assert 0.9 < hours < 1.1
    assert 5 < arrivals.in_flight.mean() < 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("generated_tokens", "tokens"), "'generated_tokens' is missing"),
        (lambda text: text.replace("18:00:09", "17:00:09"), "row 5 timestamp is before"),
        (lambda text: text.replace("2023-11-16 18:00:02", "soon"), "row 4 timestamp is not a time"),
        (lambda text: text.replace(",10,0\n", ",10,-1\n"), "row 4 generated_tokens"),
        (lambda text: "\n".join(text.splitlines()[:2]), "holds 1 arrivals"),
    ],
)
def test_a_fault_in_the_arrivals_is_named_with_its_file(path, change, message):
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=message) as error:
        read_arrivals(path, 0.01)
    assert str(path) in str(error.value)
