"""A meter may tick more slowly than it is read; its joules then belong to longer windows."""

import pytest
from prometheus_client import CollectorRegistry

from serving.ledger import energy as accounts_module
from serving.ledger.energy import EnergyAccounts
from serving.ledger.record import Record
from tests.envs.energy.ticking import ticking
from tests.serving.hooks import config


@pytest.mark.parametrize("tick", [0.3, 1.7, 7.0])
def test_work_shorter_than_a_tick_is_carried_into_the_next_window(tick, tmp_path, monkeypatch):
    with ticking(tick, "measured", accounts_module) as (server, meter):
        monkeypatch.setattr(accounts_module, "_meter", lambda config, urls: meter)
        registry = CollectorRegistry()
        accounts = EnergyAccounts(
            config(tmp_path, idle_watts=0.0), ["http://127.0.0.1:9"], registry
        )
        value = registry.get_sample_value
        amended = []

        def play_second(key):
            sent = server.clock.time()
            server.chat([{}] * 250)
            record = Record(key, sent, "/v1/chat/completions", seconds=1.0, status=200)
            record.prompt_tokens, record.completion_tokens = 9, 1000
            accounts.ended([record])
            accounts.read()
            amended.extend(accounts.settle(server.clock.time()))

        first_tick_joules = 0.0
        for number in range(100):
            play_second(f"r{number}")
            first_tick_joules = first_tick_joules or meter.read_joules() * accounts._windows._ticked
        amended.extend(accounts.close())
        # Every joule since the first observed tick is counted, and no other.
        measured = value("sprout_meter_joules_total")
        assert measured == pytest.approx(meter.read_joules() - first_tick_joules)
        attributed = value("sprout_attributed_joules_total", {"directive": "none"})
        assert attributed + value("sprout_idle_joules_total") == pytest.approx(measured)
        assert len(amended) > 80
        assert all(amendment.changes["energy_joules"] > 0 for amendment in amended)
        assert value("sprout_meter_up") == 1
        # A counter that stands still for long is treated as a failed meter.
        meter.stands = True
        for number in range(70):
            play_second(f"s{number}")
        assert value("sprout_meter_up") == 0
        assert value("sprout_meter_joules_total") == measured
