"""Profiles whose windows are shorter than the meter's tick: windows merge, no joule is lost."""

import json

import pytest

from envs.backends.live import LiveBackend
from envs.errors import MeterError
from envs.requests.directive import DEFAULT_CATALOGUE
from envs.requests.workload import generate_requests
from experiments.record.profile import record
from tests.envs.energy.ticking import ticking

REQUESTS = generate_requests(2, seed=0)


class Watched(LiveBackend):
    """A live backend that keeps the result of each call in `calls`."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.calls = []

    def carry(self, rows, actions):
        self.calls.append(super().carry(rows, actions))
        return self.calls[-1]


@pytest.mark.parametrize("tick", [0.001, 0.013, 0.03, 0.7])
def test_blocks_shorter_than_a_tick_are_merged_without_losing_energy(tick, tmp_path):
    with ticking(tick, "measured") as (server, meter):
        server.tokens = lambda index: 1 + index % 5
        backend = Watched(server, meter, DEFAULT_CATALOGUE, REQUESTS)
        profile = record(backend, DEFAULT_CATALOGUE, "made", tmp_path / "p.parquet", in_flight=1)
    assert len(profile.requests) == len(REQUESTS)
    assert (profile.outcomes.energy_joules > 0).all()
    # All energy was measured; a window's energy is split over its blocks by their tokens.
    assert profile.outcomes.energy_method == "attributed"
    metered = [outcomes for call in backend.calls for outcomes in call]
    assert sum(o.energy_joules.sum() for o in metered) == pytest.approx(meter.read_joules())
    # The file has the measured energies of all calls, except those that warmed the server up or
    # woke the meter at the end.
    recorded_joules = profile.outcomes.energy_joules.ravel().tolist()
    metered_joules = [joules for o in metered for joules in o.energy_joules.tolist()]
    assert all(
        any(joules == pytest.approx(measured) for measured in metered_joules)
        for joules in recorded_joules
    )
    assert len(metered) == len(backend.calls)


def test_a_meter_that_stops_rising_ends_a_profile_whose_finished_rows_are_kept(tmp_path):
    with ticking(0.01, "measured") as (server, meter):
        backend = Watched(server, meter, DEFAULT_CATALOGUE, REQUESTS)

        def tokens(index):
            # The meter breaks after the fifth call.
            meter.stands = len(backend.calls) > 4
            return 20

        server.tokens = tokens
        with pytest.raises(MeterError, match="does not rise"):
            record(backend, DEFAULT_CATALOGUE, "made", tmp_path / "p.parquet", in_flight=1)
    lines = (tmp_path / "p.parquet.partial").read_text().splitlines()
    rows = [json.loads(line) for line in lines[1:]]
    # The first of the five calls was the warm-up.
    assert len(rows) == 4
    assert all(row["energy_joules"] > 0 for row in rows)
