"""Measured joules and live carbon intensity in the ledger, through the program itself."""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

import alembic.command
import alembic.config
import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from envs.energy.work import Activity
from envs.errors import ConfigError, DataError
from serving.hook.outcome import ReportedAnswer
from serving.ledger import in_flight, migrations
from serving.ledger.energy import EnergyAccounts, _activity
from serving.ledger.estimate import footprint_model
from serving.ledger.in_flight import InFlight, oldest_in_flight
from serving.ledger.record import Record
from tests.envs.answering import answering
from tests.envs.carbon.live.services import HOUR, SECRET, Services, grams
from tests.envs.energy.meters.devices import Gpu, install
from tests.serving.hooks import CHAT, config, hook, keeper, metric, post, waited
from tests.serving.launch import serving

NAMES = ["decision_id", "energy_joules", "energy_method", "energy_error_joules", "grams", "outcome"]


def watts(power, labels=""):
    """Return a metrics page whose counter rises by `power` J per second."""
    started = time.monotonic()

    def page(_):
        joules = power * (time.monotonic() - started)
        text = f"# TYPE node_joules_total counter\nnode_joules_total{labels} {joules}\n"
        return 200, text.encode(), {}

    return page


@pytest.mark.long
def test_measured_joules_reach_the_ledger_and_add_up(upstream, folder):
    with answering(watts(200.0)) as meter:
        flags = ("--meter", "remote", "--meter-url", f"{meter}/metrics", "--meter-unit", "J")
        flags += ("--meter-query", "node_joules_total", "--meter-seconds", "1", "--idle-watts", "0")
        with serving(upstream.url, folder, *flags, "--workers", "2") as server:
            assert waited(lambda: server.metric("sprout_meter_info{") == 1)
            deadline = time.monotonic() + 6
            while time.monotonic() < deadline:
                for body in (CHAT, CHAT | {"stream": True}):
                    assert post(server.url, body)[0] == 200
            read_rows = server.ledger.rows

            def attributed():
                return [r for r in read_rows(NAMES) if r[2] == "attributed"]

            def all_is_accounted_for():
                accounted = server.metric("sprout_idle_joules_total")
                accounted += server.metric("sprout_attributed_joules_total")
                measured = server.metric("sprout_meter_joules_total")
                return measured > 200 and measured == pytest.approx(accounted, rel=1e-6)

            assert waited(lambda: len(attributed()) > 20, 30)
            # A request that crosses the last settled window is accounted for with the next one.
            assert waited(all_is_accounted_for, 60)
            assert server.metric("sprout_meter_up") == 1
        rows = list(read_rows(NAMES))
        metered_rows = [row for row in rows if row[2] == "attributed"]
        # Requests before the meter's first tick keep their estimates. Shutdown settles the open
        # windows, so nearly all later requests were metered.
        since_first_tick = rows[rows.index(metered_rows[0]) :]
        assert len(metered_rows) > 0.8 * len(since_first_tick)
        assert all(row[1] > 0 and row[3] is not None and row[4] > 0 for row in metered_rows)
        # The sum is no more than the server used: 200 W for less than 60 s.
        assert sum(row[1] for row in metered_rows) < 200 * 60


def test_a_meter_that_fails_is_read_again_once_it_is_back(tmp_path, monkeypatch):
    monkeypatch.setattr("serving.ledger.energy.REOPEN_SECONDS", 0.2)
    monkeypatch.setattr("serving.ledger.energy.WINDOW_SECONDS", 0.05)
    page = {"now": lambda _: (503, b"", {})}
    with answering(lambda request: page["now"](request)) as url:
        settings = {"meter": "remote", "meter_url": f"{url}/metrics", "meter_unit": "J"}
        settings |= {"meter_query": "node_joules_total", "meter_seconds": 0.01}
        registry = CollectorRegistry()
        accounts = EnergyAccounts(config(tmp_path, **settings), ["http://127.0.0.1:9"], registry)
        up = lambda: registry.get_sample_value("sprout_meter_up")  # noqa: E731
        joules = lambda: registry.get_sample_value("sprout_meter_joules_total")  # noqa: E731

        def becomes_true(test):
            return waited(lambda: (time.sleep(0.02), accounts.read(), test())[-1], 10)

        assert becomes_true(lambda: accounts._problem is not None)
        assert "answered 503" in accounts._problem
        assert up() == 0
        page["now"] = watts(100.0)
        assert becomes_true(lambda: up() == 1)
        # Another series in its place, as after a restart of the pod, is only a gap.
        page["now"] = watts(100.0, '{pod="b"}')
        assert becomes_true(lambda: up() == 0)
        assert becomes_true(lambda: up() == 1)
        accounts.close()
        assert joules() > 0


def test_a_record_is_stored_although_the_meter_library_fails(tmp_path, monkeypatch):
    made_hook = hook(tmp_path)
    ledger_keeper = keeper(made_hook)
    monkeypatch.setattr("serving.ledger.energy.WINDOW_SECONDS", 0.0)
    monkeypatch.setattr(ledger_keeper._accounts, "_make", lambda now: 1 / 0)
    plan = asyncio.run(made_hook.plan("/v1/chat/completions", CHAT, {}))
    made_hook.finish(plan, ReportedAnswer(plan.started), "completed")
    ledger_keeper.step()
    assert ledger_keeper.ledger.find(plan.record.decision_id) is not None
    assert "ZeroDivisionError" in ledger_keeper._accounts._problem
    ledger_keeper.close()


def test_only_a_single_local_server_is_metered_by_default(tmp_path, monkeypatch):
    install(monkeypatch, [Gpu("GPU-a")])
    monkeypatch.setattr("serving.ledger.energy.WINDOW_SECONDS", 0.0)

    def metered(urls, **settings):
        accounts = EnergyAccounts(config(tmp_path, **settings), urls, CollectorRegistry())
        accounts.read()
        return accounts._windows is not None

    assert metered(["http://127.0.0.1:8000"])
    assert not metered(["http://gpu.example.com:8000"])
    # Inside another program, it is unknown where the model runs.
    assert not metered([])
    assert metered([], meter="nvml")
    assert metered(["http://gpu.example.com:8000"], meter="nvml")
    assert not metered(["http://127.0.0.1:8000"], meter="none")
    assert not metered(["http://127.0.0.1:8000", "http://127.0.0.1:8001"])
    with pytest.raises(ConfigError, match="several upstreams"):
        metered(["http://127.0.0.1:8000", "http://127.0.0.1:8001"], meter="nvml")


def test_a_live_grid_is_used_and_falls_back_to_the_yearly_mean(upstream, folder):
    services = Services()
    with answering(services) as url:
        flags = ("--intensity", "electricity-maps", "--zone", "DE", "--intensity-url", url)
        flags += ("--intensity-mean", "345", "--intensity-max-age", "30")
        secrets = {"SPROUT_ELECTRICITY_MAPS_TOKEN": SECRET}
        with serving(upstream.url, folder, *flags, secrets=secrets) as server:
            answer_headers = lambda: post(server.url, CHAT)[2]  # noqa: E731
            assert waited(lambda: answer_headers()["x-sprout-intensity-step"] == "live")
            headers = answer_headers()
            assert float(headers["x-sprout-intensity"]) == grams(time.time() // HOUR * HOUR)
            assert headers["x-sprout-intensity-kind"] == "average direct"
            live = 'sprout_carbon_intensity_info{scope="direct",signal="average",step="live"'
            assert waited(lambda: server.metric(live) == 1)
            assert server.metric('sprout_intensity_fetches_total{result="ok"') >= 2
            state = server.state
            assert (state / "intensity.json").exists()
        # Start again while the service fails, with a cached outlook that is 30 hours old.
        services.fails = {"/": (401, b"{}", {})}
        outlook = json.loads((state / "intensity.json").read_text())
        for point in outlook["readings"] + outlook["forecasts"]:
            point[0] -= 30 * HOUR
        (state / "intensity.json").write_text(json.dumps(outlook))
        flags += ("--state", str(state))
        with serving(upstream.url, folder, *flags, secrets=secrets) as server:
            headers = post(server.url, CHAT)[2]
            assert headers["x-sprout-intensity-step"] == "yearly_mean"
            assert float(headers["x-sprout-intensity"]) == 345
            assert waited(lambda: server.metric('sprout_intensity_fetches_total{result="401"') >= 1)
            assert post(server.url, CHAT)[0] == 200
    for path in folder.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


WATTTIME = {"intensity": "watttime", "zone": "X", "intensity_mean": 300.0}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"intensity": "uk"}, "--intensity-mean"),
        (WATTTIME | {"intensity_signal": "marginal"}, "SPROUT_WATTTIME_USER"),
        ({"intensity": "uk", "intensity_mean": 300.0, "intensity_scope": "lifecycle"},
         "gives average direct"),
        ({"hardware": "abacus"}, "one of a100-sxm-80gb"),
        ({"coefficients": "none.json"}, "none.json"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused_before_anything_is_served(tmp_path, settings, problem):
    clock = {"clock_start": None} if "intensity" in settings else {}
    with pytest.raises((ConfigError, DataError), match=problem):
        hook(tmp_path, **settings, **clock)


def test_a_wrong_setting_ends_the_start_with_its_reason(upstream, folder):
    refused = pytest.raises(AssertionError, match="one of a100-sxm-80gb")
    with refused, serving(upstream.url, folder, "--hardware", "abacus"):
        pass


def test_a_policy_trained_on_another_intensity_signal_is_refused(tmp_path):
    marginal = {"intensity": {"signal": "marginal", "scope": "direct"}}
    made_hook = hook(tmp_path, extra=marginal)
    (problem,) = made_hook.policies.problems.values()
    assert (
        "trained on marginal direct carbon intensity, but the grid's is average direct" in problem
    )
    assert metric(made_hook, "sprout_fail_open_total") == 0
    same = {"intensity": {"signal": "average", "scope": "direct"}}
    assert not hook(tmp_path / "b", extra=same).policies.problems


def test_the_keeper_knows_the_start_of_the_oldest_request_in_flight(tmp_path, monkeypatch):
    now = time.time()
    # No process has published anything.
    assert oldest_in_flight(tmp_path) < now - 60
    requests = InFlight(tmp_path)
    requests.publish()
    assert oldest_in_flight(tmp_path) >= now
    requests.begin("a", now - 50)
    requests.begin("b", now - 20)
    requests.publish()
    assert oldest_in_flight(tmp_path) == now - 50
    requests.end("a")
    requests.publish()
    assert oldest_in_flight(tmp_path) == now - 20
    # A request that was never ended is ignored after an hour.
    requests.end("b")
    requests.begin("lost", now - 4000)
    requests.begin("long", now - 700)
    requests.begin("c", now - 30)
    requests.publish()
    assert oldest_in_flight(tmp_path) == now - 30
    assert len(requests) == 2
    # A process that has ended, or hangs, is ignored soon.
    monkeypatch.setattr(in_flight, "_GONE_SECONDS", -1.0)
    assert oldest_in_flight(tmp_path) > now - 130
    assert not list((tmp_path / in_flight.FOLDER).glob("[0-9]*"))


def test_a_record_becomes_the_activity_of_the_server():
    record = Record(
        decision_id="d",
        time=100.0,
        route="/v1/chat/completions",
        seconds=2.0,
        decision_seconds=0.5,
        seconds_first=1.0,
        streamed=True,
        status=200,
        characters=400,
        completion_tokens=7,
    )
    assert _activity(record) == Activity("d", 100.5, 101.0, 102.0, 100, 7)
    assert _activity(replace(record, streamed=False)).first is None
    assert _activity(replace(record, completion_tokens=None)) is None
    assert _activity(replace(record, status=0)) is None


def test_the_footprint_is_that_of_the_operators_site(tmp_path):
    # Embodied emissions of unknown hardware are unknown, so they are left out.
    assert footprint_model(config(tmp_path)).grams(0.0, 1000.0, 100.0) == 0
    model = footprint_model(config(tmp_path, hardware="h100-sxm", devices=8, pue=1.2, life_years=4))
    assert model.pue == 1.2
    seconds = 4 * 365 * 86400
    assert model.embodied_g_per_second == pytest.approx(8 * 1000 * (164 + 712) / seconds)
    # PUE applies to the site's electricity, not to embodied carbon.
    assert model.grams(3.6e6, 0.0, 100.0) == pytest.approx(120.0)


def test_an_older_ledger_gets_the_new_columns(tmp_path):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    alembic_config = alembic.config.Config()
    alembic_config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        alembic_config.attributes["connection"] = connection
        alembic.command.upgrade(alembic_config, "0001")
    engine.dispose()
    made_hook = hook(tmp_path, ledger=url)
    plan = asyncio.run(made_hook.plan("/v1/chat/completions", CHAT, {}))
    made_hook.finish(plan, ReportedAnswer(plan.started), "completed")
    ledger_keeper = keeper(made_hook)
    ledger_keeper.step()
    row = ledger_keeper.ledger.find(plan.record.decision_id)
    assert row["intensity_step"] == "live"
    assert row["energy_error_joules"] is None
    ledger_keeper.close()
