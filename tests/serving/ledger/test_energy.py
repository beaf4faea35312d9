"""A server's measured joules in the ledger, and a live grid, through the program itself."""

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
from serving.hook.answer import ReportedAnswer
from serving.ledger import in_flight, migrations
from serving.ledger.energy import EnergyAccounts, _activity
from serving.ledger.estimate import estimate_coefficients, footprint_model
from serving.ledger.in_flight import InFlight, oldest_in_flight
from serving.ledger.record import Record
from tests.envs.answering import answering
from tests.envs.carbon.live.services import HOUR, SECRET, Services, grams
from tests.envs.energy.meters.devices import Gpu, install
from tests.serving.hooks import CHAT, config, hook, keeper, metric, post, waited
from tests.serving.launch import serving

NAMES = ["decision_id", "energy_joules", "energy_method", "energy_error_joules", "grams", "outcome"]


def watts(power, labels=""):
    """A page of metrics whose counter rises by `power` J a second."""
    began = time.monotonic()

    def page(_):
        joules = power * (time.monotonic() - began)
        text = f"# TYPE node_joules_total counter\nnode_joules_total{labels} {joules}\n"
        return 200, text.encode(), {}

    return page


def test_measured_joules_reach_the_ledger_and_add_up(upstream, folder):
    with answering(watts(200.0)) as meter:
        flags = ("--meter", "remote", "--meter-url", f"{meter}/metrics", "--meter-unit", "J")
        flags += ("--meter-query", "node_joules_total", "--meter-seconds", "1", "--idle-watts", "0")
        with serving(upstream.url, folder, *flags, "--workers", "2") as found:
            assert waited(lambda: found.metric("sprout_meter_info{") == 1)
            deadline = time.monotonic() + 6
            while time.monotonic() < deadline:
                for body in (CHAT, CHAT | {"stream": True}):
                    assert post(found.url, body)[0] == 200
            read = found.ledger.rows

            def attributed():
                return [r for r in read(NAMES) if r[2] == "attributed"]

            assert waited(lambda: len(attributed()) > 20, 30)
            measured = found.metric("sprout_meter_joules_total")
            parts = found.metric("sprout_idle_joules_total")
            parts += found.metric("sprout_attributed_joules_total")
            assert measured == pytest.approx(parts, rel=1e-6)
            assert measured > 200
            assert found.metric("sprout_meter_up") == 1
        rows = list(read(NAMES))
        of_meter = [row for row in rows if row[2] == "attributed"]
        # The end settles what was still open: nearly all were metered.
        assert len(of_meter) > 0.8 * len(rows)
        assert all(row[1] > 0 and row[3] is not None and row[4] > 0 for row in of_meter)
        # No more than the server used: 200 W for as long as it ran.
        assert sum(row[1] for row in of_meter) < 200 * 60


def test_a_meter_that_is_away_stops_nothing_and_is_read_when_it_is_back(tmp_path, monkeypatch):
    monkeypatch.setattr("serving.ledger.energy.AGAIN_SECONDS", 0.2)
    monkeypatch.setattr("serving.ledger.energy.WINDOW_SECONDS", 0.05)
    page = {"now": lambda _: (503, b"", {})}
    with answering(lambda request: page["now"](request)) as url:
        asked = {"meter": "remote", "meter_url": f"{url}/metrics", "meter_unit": "J"}
        asked |= {"meter_query": "node_joules_total", "meter_seconds": 0.01}
        registry = CollectorRegistry()
        accounts = EnergyAccounts(config(tmp_path, **asked), ["http://127.0.0.1:9"], registry)
        up = lambda: registry.get_sample_value("sprout_meter_up")  # noqa: E731
        joules = lambda: registry.get_sample_value("sprout_meter_joules_total")  # noqa: E731

        def until(test):
            return waited(lambda: (time.sleep(0.02), accounts.read(), test())[-1], 10)

        assert until(lambda: accounts._problem is not None)
        assert "answered 503" in accounts._problem
        assert up() == 0
        page["now"] = watts(100.0)
        assert until(lambda: up() == 1)
        # Another series in its place, as of a pod that was started again: a gap, no more.
        page["now"] = watts(100.0, '{pod="b"}')
        assert until(lambda: up() == 0)
        assert until(lambda: up() == 1)
        accounts.close()
        assert joules() > 0


def test_a_library_that_fails_stops_no_record(tmp_path, monkeypatch):
    made_hook = hook(tmp_path)
    keep = keeper(made_hook)
    monkeypatch.setattr("serving.ledger.energy.WINDOW_SECONDS", 0.0)
    monkeypatch.setattr(keep._accounts, "_make", lambda now: 1 / 0)
    plan = asyncio.run(made_hook.plan("/v1/chat/completions", CHAT, {}))
    made_hook.finish(plan, ReportedAnswer(plan.started), "completed")
    keep.step()
    assert keep.ledger.find(plan.record.decision_id) is not None
    assert "ZeroDivisionError" in keep._accounts._problem
    keep.close()


def test_only_a_server_on_this_machine_is_metered_unasked(tmp_path, monkeypatch):
    install(monkeypatch, [Gpu("GPU-a")])
    monkeypatch.setattr("serving.ledger.energy.WINDOW_SECONDS", 0.0)

    def metered(urls, **given):
        accounts = EnergyAccounts(config(tmp_path, **given), urls, CollectorRegistry())
        accounts.read()
        return accounts._windows is not None

    assert metered(["http://127.0.0.1:8000"])
    assert not metered(["http://gpu.example.com:8000"])
    # Inside another program: nobody knows where the model runs.
    assert not metered([])
    assert metered([], meter="nvml")
    assert metered(["http://gpu.example.com:8000"], meter="nvml")
    assert not metered(["http://127.0.0.1:8000"], meter="none")
    assert not metered(["http://127.0.0.1:8000", "http://127.0.0.1:8001"])
    with pytest.raises(ConfigError, match="several upstreams"):
        metered(["http://127.0.0.1:8000", "http://127.0.0.1:8001"], meter="nvml")


def test_a_live_grid_by_each_of_its_steps(upstream, folder):
    services = Services()
    with answering(services) as url:
        flags = ("--intensity", "electricity-maps", "--zone", "DE", "--intensity-url", url)
        flags += ("--intensity-mean", "345", "--intensity-max-age", "30")
        secrets = {"SPROUT_ELECTRICITY_MAPS_TOKEN": SECRET}
        with serving(upstream.url, folder, *flags, secrets=secrets) as found:
            said = lambda: post(found.url, CHAT)[2]  # noqa: E731
            assert waited(lambda: said()["x-sprout-intensity-step"] == "live")
            headers = said()
            assert float(headers["x-sprout-intensity"]) == grams(time.time() // HOUR * HOUR)
            assert headers["x-sprout-intensity-kind"] == "average direct"
            live = 'sprout_carbon_intensity_info{scope="direct",signal="average",step="live"'
            assert waited(lambda: found.metric(live) == 1)
            assert found.metric('sprout_intensity_fetches_total{result="ok"') >= 2
            state = found.state
            assert (state / "intensity.json").exists()
        # Started again while the service is away, from what was known a minute ago.
        services.fails = {"/": (401, b"{}", {})}
        outlook = json.loads((state / "intensity.json").read_text())
        for point in outlook["readings"] + outlook["forecasts"]:
            point[0] -= 30 * HOUR
        (state / "intensity.json").write_text(json.dumps(outlook))
        flags += ("--state", str(state))
        with serving(upstream.url, folder, *flags, secrets=secrets) as found:
            headers = post(found.url, CHAT)[2]
            assert headers["x-sprout-intensity-step"] == "yearly_mean"
            assert float(headers["x-sprout-intensity"]) == 345
            assert waited(lambda: found.metric('sprout_intensity_fetches_total{result="401"') >= 1)
            assert post(found.url, CHAT)[0] == 200
    for path in folder.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


WATTTIME = {"intensity": "watttime", "zone": "X", "intensity_mean": 300.0}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"intensity": "uk"}, "--intensity-mean"),
        (WATTTIME | {"intensity_signal": "marginal"}, "SPROUT_WATTTIME_USER"),
        ({"intensity": "uk", "intensity_mean": 300.0, "intensity_scope": "lifecycle"},
         "gives average direct"),
        ({"hardware": "abacus"}, "one of a100-sxm-80gb"),
        ({"coefficients": "none.json"}, "none.json"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused_before_anything_is_served(tmp_path, given, problem):
    clock = {"clock_start": None} if "intensity" in given else {}
    with pytest.raises((ConfigError, DataError), match=problem):
        hook(tmp_path, **given, **clock)


def test_wrong_settings_end_the_start_and_say_why(upstream, folder):
    refused = pytest.raises(AssertionError, match="one of a100-sxm-80gb")
    with refused, serving(upstream.url, folder, "--hardware", "abacus"):
        pass


def test_a_policy_of_another_kind_of_intensity_is_refused(tmp_path):
    marginal = {"intensity": {"signal": "marginal", "scope": "direct"}}
    made_hook = hook(tmp_path, extra=marginal)
    (problem,) = made_hook.policies.problems.values()
    assert (
        "trained on marginal direct carbon intensity, but the grid's is average direct" in problem
    )
    assert metric(made_hook, "sprout_fail_open_total") == 0
    same = {"intensity": {"signal": "average", "scope": "direct"}}
    assert not hook(tmp_path / "b", extra=same).policies.problems


def test_since_when_requests_are_on_their_way_is_known_to_the_keeper(tmp_path, monkeypatch):
    now = time.time()
    # Nobody has said anything.
    assert oldest_in_flight(tmp_path) < now - 60
    mine = InFlight(tmp_path)
    mine.publish()
    assert oldest_in_flight(tmp_path) >= now
    mine.begin("a", now - 50)
    mine.begin("b", now - 20)
    mine.publish()
    assert oldest_in_flight(tmp_path) == now - 50
    mine.end("a")
    mine.publish()
    assert oldest_in_flight(tmp_path) == now - 20
    # One that was forgotten holds nobody up for ever.
    mine.end("b")
    mine.begin("lost", now - 4000)
    mine.begin("long", now - 700)
    mine.begin("c", now - 30)
    mine.publish()
    assert oldest_in_flight(tmp_path) == now - 30
    assert len(mine) == 2
    # A process that is gone, or hangs, holds nobody up for long.
    monkeypatch.setattr(in_flight, "_GONE_SECONDS", -1.0)
    assert oldest_in_flight(tmp_path) > now - 130
    assert not list((tmp_path / in_flight.FOLDER).glob("[0-9]*"))


def test_a_record_says_what_the_server_did():
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


def test_estimates_follow_what_the_operator_states(tmp_path):
    stated = estimate_coefficients(None, 2.0)
    assert stated.cost(1000, 10)[0] == pytest.approx(20.0)
    with pytest.raises(Exception, match=r"1 kWh = 3\.6e6 J"):
        # 2 J, in kWh.
        estimate_coefficients(None, 2.0 / 3.6e6)
    ours = footprint_model(config(tmp_path, hardware="h100-sxm", devices=8, pue=1.2, life_years=4))
    assert ours.pue == 1.2
    seconds = 4 * 365 * 86400
    assert ours.embodied_g_per_second == pytest.approx(8 * 1000 * (164 + 712) / seconds)
    # PUE is of the site's electricity, not of its making.
    assert ours.grams(3.6e6, 0.0, 100.0) == pytest.approx(120.0)


def test_an_older_ledger_gets_the_new_columns(tmp_path):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    older = alembic.config.Config()
    older.set_main_option("script_location", str(Path(migrations.__file__).parent))
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        older.attributes["connection"] = connection
        alembic.command.upgrade(older, "0001")
    engine.dispose()
    made_hook = hook(tmp_path, ledger=url)
    plan = asyncio.run(made_hook.plan("/v1/chat/completions", CHAT, {}))
    made_hook.finish(plan, ReportedAnswer(plan.started), "completed")
    keep = keeper(made_hook)
    keep.step()
    row = keep.ledger.find(plan.record.decision_id)
    assert row["intensity_step"] == "live"
    assert row["energy_error_joules"] is None
    keep.close()
