"""Each live source against a server that gives its documented answers, good and bad."""

import json
import logging
import time
from contextlib import suppress

import pytest

from envs.carbon.intensity import Kind
from envs.carbon.live.choose import SERVICES, SourceSettings, make_source
from envs.carbon.live.feed import Feed
from envs.carbon.live.outlook import read_outlook
from envs.carbon.live.source import MalformedError
from envs.carbon.live.uk import CarbonIntensityUk
from envs.errors import ConfigError
from envs.http_client import Fetcher, FetchError
from tests.envs.answering import answering
from tests.envs.carbon.live.services import (
    FORECASTS,
    HOUR,
    READINGS,
    SECRET,
    SOURCES,
    Services,
    dumped,
    electricity_maps_row,
    grams,
)

MEAN = 345.0
# Half past the hour, so that no test runs at the edge of an hour.
NOW = 1_790_000_000 // HOUR * HOUR + 1800.0


@pytest.fixture(params=list(SOURCES))
def name(request):
    return request.param


@pytest.fixture
def services():
    fake = Services(now=NOW)
    with answering(fake) as url:
        fake.url = url
        yield fake


def feed_of(name, services, path, now=lambda: NOW, **options):
    return Feed(SOURCES[name](services.url), path / "i.json", MEAN, now=now, **options)


def reading_after_poll(feed):
    """Poll once and return the present reading, even if the poll failed."""
    with suppress(FetchError):
        feed.once()
    return feed.outlook.reading(feed._now(), 6 * HOUR)


def test_readings_and_forecasts_equal_those_of_the_grid(name, services):
    source = SOURCES[name](services.url)
    readings = source.readings(NOW - 24 * HOUR, NOW)
    assert len(readings) >= 23
    assert [p.g_per_kwh for p in readings] == pytest.approx([grams(p.start) for p in readings])
    assert {p.method for p in readings} <= {"measured", "estimated"}
    assert max(p.start for p in readings) >= NOW - 2 * HOUR
    forecast = source.forecast(NOW)
    assert [p.g_per_kwh for p in forecast] == pytest.approx([grams(p.start) + 1 for p in forecast])
    assert {p.method for p in forecast} == {"forecast"}
    assert max(p.end for p in forecast) > NOW + 22 * HOUR


def test_a_null_row_does_not_cost_the_others(name, services, monkeypatch):
    source = SOURCES[name](services.url)
    whole = source.forecast(NOW)

    def with_nulls(where, body):
        return spoiled(json.loads(body))

    def spoiled(part):
        if isinstance(part, list):
            return [None, *map(spoiled, part), None]
        return {k: spoiled(v) for k, v in part.items()} if isinstance(part, dict) else part

    monkeypatch.setattr(f"{type(source).__module__}.parse_json", with_nulls)
    assert source.forecast(NOW) == whole


def test_estimated_values_are_labelled_so(services):
    for name in ("electricity-maps", "watttime"):
        readings = SOURCES[name](services.url).readings(NOW - 24 * HOUR, NOW)
        for point in readings:
            even = point.start // HOUR % 2 == 0
            assert point.method == ("estimated" if even else "measured")


def test_a_feed_reads_the_present_intensity_and_stores_it(name, services, tmp_path):
    feed = feed_of(name, services, tmp_path)
    feed.once()
    reading = feed.outlook.reading(NOW, 0)
    assert reading.step == "live"
    assert reading.g_per_kwh == pytest.approx(grams(reading.time))
    assert reading.age_seconds <= 1800
    stored = read_outlook(tmp_path / "i.json")
    assert stored.reading(NOW, 0) == reading
    # Its place among the past day's hours, and the share of the coming day's that are cleaner.
    place, cleaner_ahead = stored.places(reading)
    past = [grams(NOW - h * HOUR) for h in range(1, 24)]
    assert place == pytest.approx(
        (reading.g_per_kwh - min(past)) / (max(*past, reading.g_per_kwh) - min(past)), abs=0.05
    )
    ahead = [grams(NOW + h * HOUR) + 1 < reading.g_per_kwh for h in range(1, 24)]
    assert cleaner_ahead == pytest.approx(sum(ahead) / len(ahead), abs=0.06)


FAULTS = {
    "401": (401, dumped({"error": "Invalid auth-token"}), {}),
    "403": (403, b"<html>Forbidden</html>", {}),
    "404": (404, dumped({"error": 'No recent data for zone "DE"'}), {}),
    "429": (429, b"slow down", {"retry-after": "1234"}),
    "500": (500, b"", {}),
    "503 with a date": (503, b"", {"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}),
    "no JSON": (200, b"<html>maintenance</html>", {}),
    "half a JSON": (200, b'{"data": [{"from": ', {}),
    "another shape": (200, b'{"data": 7, "zone": "DE"}', {}),
    "a list": (200, b"[7]", {}),
    "null": (200, b"null", {}),
    "redirected": (302, b"", {"location": "http://127.0.0.1:1/"}),
    "empty": (200, b"", {}),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_after_any_fault_the_next_best_intensity_is_used(name, services, tmp_path, caplog, fault):
    caplog.set_level(logging.DEBUG)
    counts = []
    clock = [NOW]
    feed = feed_of(
        name, services, tmp_path, now=lambda: clock[0], count=lambda *c: counts.append(c)
    )
    assert reading_after_poll(feed).step == "live"
    # Readings fail: the forecast for the present hour is used.
    services.fails = {READINGS[name]: FAULTS[fault]}
    if name == "uk":
        services.fails = {READINGS[name]: lambda r: FAULTS[fault] if "fw24h" not in r.path
                          else services._uk(r.path)}  # fmt: skip
    clock[0] = services.now = NOW + 3 * HOUR
    reading = reading_after_poll(feed)
    if not (name == "carbon-aware" and fault == "empty"):
        assert counts[-1][1] != "ok"
    assert reading.step == "forecast"
    assert reading.g_per_kwh == pytest.approx(grams(clock[0]) + 1)
    assert reading.age_seconds == 0
    # Forecasts fail too, and no old one is left: the last reading is used, with its age.
    services.fails = dict.fromkeys((READINGS[name], FORECASTS[name], "latest"), FAULTS[fault])
    last = max(p.end for p in feed.outlook.readings)
    feed.outlook = feed.outlook.with_points(clock[0], forecasts=[])
    reading = reading_after_poll(feed)
    assert reading.step == "last_known"
    assert reading.age_seconds == pytest.approx(clock[0] - last)
    # The last reading is too old: the yearly mean is used.
    clock[0] = NOW + 30 * HOUR
    reading = reading_after_poll(feed)
    assert (reading.step, reading.g_per_kwh) == ("yearly_mean", MEAN)
    # The service answers again.
    services.fails, services.now = {}, clock[0]
    feed._forecast_due = 0.0
    assert reading_after_poll(feed).step == "live"
    assert SECRET not in caplog.text
    assert "me:" not in caplog.text


def test_the_yearly_mean_is_used_before_the_first_answer(name, services, tmp_path):
    services.fails = {"/": FAULTS["500"]}
    reading = reading_after_poll(feed_of(name, services, tmp_path))
    assert (reading.step, reading.g_per_kwh, reading.age_seconds) == ("yearly_mean", MEAN, 0)


def test_missing_hours_are_gaps_not_guesses(name, services):
    services.missing = ((NOW // HOUR - 5) % 24, (NOW // HOUR - 6) % 24)
    readings = SOURCES[name](services.url).readings(NOW - 20 * HOUR, NOW)
    hours = {p.start // HOUR % 24 for p in readings}
    assert not hours & set(services.missing)
    assert [p.g_per_kwh for p in readings] == pytest.approx([grams(p.start) for p in readings])


def test_a_slow_body_is_given_up_after_the_timeout():
    def drip(request):
        request.send_response(200)
        request.send_header("content-length", "100000")
        request.end_headers()
        for _ in range(100):
            request.wfile.write(b" ")
            request.wfile.flush()
            time.sleep(0.05)
        raise ConnectionAbortedError

    with answering(drip) as url:
        began = time.monotonic()
        with pytest.raises(FetchError):
            Fetcher(0.3).get(url)
        assert time.monotonic() - began < 3


def test_a_wrong_local_clock_never_gives_a_reading_from_the_future(name, services, tmp_path):
    # The local clock is 5 hours behind, so the service's latest readings lie in its future.
    behind = feed_of(name, services, tmp_path, now=lambda: NOW - 5 * HOUR)
    assert reading_after_poll(behind).age_seconds >= 0
    assert all(p.start <= NOW - 5 * HOUR for p in behind.outlook.readings)
    # The local clock is 5 hours ahead, so all readings are old.
    (tmp_path / "i.json").unlink()
    ahead = feed_of(name, services, tmp_path, now=lambda: NOW + 5 * HOUR)
    reading = reading_after_poll(ahead)
    if reading.step == "last_known":
        assert 3 * HOUR < reading.age_seconds < 6 * HOUR
    else:
        assert reading.step in ("forecast", "yearly_mean")


@pytest.mark.parametrize("value", ["7", True, None, -5, 9e9, float("nan")])
def test_values_that_no_grid_has_are_refused(services, value):
    row = electricity_maps_row(NOW // HOUR * HOUR, carbonIntensity=value)
    services.fails = {"/latest": (200, dumped(row), {})}
    with pytest.raises(MalformedError):
        SOURCES["electricity-maps"](services.url).readings(NOW, NOW)


def test_a_reading_of_another_place_or_kind_than_requested_is_refused(services):
    hour = NOW // HOUR * HOUR
    for wrong in ({"zone": "US-CAR-DUK"}, {"scope": "lifecycle"}):
        services.fails = {"/latest": (200, dumped(electricity_maps_row(hour, **wrong)), {})}
        with pytest.raises(MalformedError, match="asked for"):
            SOURCES["electricity-maps"](services.url).readings(NOW, NOW)
    assert all("disableCallerLookup=true" in path for path in services.requested)


def test_an_hour_without_a_value_is_left_out_alone(services):
    hour = NOW // HOUR * HOUR
    rows = [electricity_maps_row(hour - HOUR * h) for h in range(24)]
    rows[3]["carbonIntensity"] = None
    services.fails = {"/history": (200, dumped({"zone": "DE", "history": rows}), {})}
    source = SOURCES["electricity-maps"](services.url)
    readings = source.readings(NOW - 24 * HOUR, NOW)
    assert hour in [p.start for p in readings]
    assert hour - 3 * HOUR not in [p.start for p in readings]
    # A single missed hour is requested from the history.
    services.fails = {}
    assert len(source.readings(hour - HOUR, NOW)) >= 2
    # A history that fails does not hold back the present reading.
    services.fails = {"/history": FAULTS["500"]}
    assert [p.start for p in source.readings(NOW - 24 * HOUR, NOW)] == [hour]


def test_watttimes_expired_token_is_renewed_and_a_wrong_unit_is_refused(services):
    source = SOURCES["watttime"](services.url)
    source.readings(NOW - HOUR, NOW)
    source.forecast(NOW)
    assert services.logins == 1
    services.expired = True
    assert source.readings(NOW - HOUR, NOW)
    assert services.logins == 2
    percentile = {"data": [], "meta": {"region": "CAISO_NORTH", "signal_type": "co2_moer",
                                       "units": "percentile"}}  # fmt: skip
    services.fails = {"/v3/historical": (200, dumped(percentile), {})}
    with pytest.raises(MalformedError, match="units is percentile"):
        source.readings(NOW - HOUR, NOW)


def test_a_region_of_britain_has_forecasts_only(services, tmp_path):
    feed = Feed(CarbonIntensityUk("GB-13", services.url), tmp_path / "i", MEAN, now=lambda: NOW)
    feed.once()
    reading = feed.outlook.reading(NOW, 0)
    assert reading.step == reading.method == "forecast"
    assert reading.g_per_kwh == pytest.approx(grams(NOW) + 1)
    with pytest.raises(ConfigError, match="GB-1 to GB-17"):
        CarbonIntensityUk("GB-18")


def test_waits_follow_retry_after_and_are_long_after_a_refusal(services, tmp_path):
    feed = feed_of("uk", services, tmp_path)

    class State:
        attempt_number = 1

        def __init__(self, error):
            self.outcome = self
            self.exception = lambda: error

    assert feed._patience(State(FetchError("", 429, 1234.0))) == 1234
    assert feed._patience(State(FetchError("", 429, 3e7))) == 6 * HOUR
    assert feed._patience(State(FetchError("", 403))) >= 600
    first = feed._patience(State(FetchError("", 500)))
    assert 5 <= first <= 10
    late = State(FetchError("", 500))
    late.attempt_number = 50
    assert 600 <= feed._patience(late) <= 605


def test_nothing_is_requested_again_before_it_can_have_changed(name, services, tmp_path):
    feed = feed_of(name, services, tmp_path)
    feed.once()
    reading = feed.outlook.reading(NOW, 0)
    due = feed.due_seconds()
    # Not before the period of the reading, or the one after it, ends.
    assert due >= min(150, max(0.0, reading.time + 1800 - NOW))
    if name in ("electricity-maps", "carbon-aware"):
        assert due >= 1800
    request_count = len(services.requested)
    feed.once()
    # The forecast is not due, and only the missing part of the past is requested.
    assert len(services.requested) == request_count + 1


def test_a_running_feed_recovers_from_a_fault_and_ends_when_closed(services, tmp_path):
    services.fails = {"/": FAULTS["500"]}
    feed = feed_of("electricity-maps", services, tmp_path, first_seconds=0.05)
    feed.start()
    deadline = time.monotonic() + 20
    while len(services.requested) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    services.fails = {}
    while feed.outlook.reading(NOW, 0).step != "live" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert feed.outlook.reading(NOW, 0).step == "live"
    feed.close()
    assert not feed.is_alive()


def test_stored_readings_survive_a_restart_but_not_a_change_of_source(services, tmp_path):
    feed = feed_of("electricity-maps", services, tmp_path)
    feed.once()
    services.fails = {"/": FAULTS["500"]}
    restarted = feed_of("electricity-maps", services, tmp_path, now=lambda: NOW + 2 * HOUR)
    assert restarted.outlook.readings == feed.outlook.readings
    other = Feed(SOURCES["watttime"](services.url), tmp_path / "i.json", MEAN, now=lambda: NOW)
    assert other.outlook.readings == ()
    (tmp_path / "i.json").write_text("{")
    assert feed_of("uk", services, tmp_path).outlook.readings == ()


def test_a_source_of_another_kind_or_without_its_settings_is_refused(monkeypatch):
    monkeypatch.setenv("SPROUT_WATTTIME_USER", "me")
    monkeypatch.setenv("SPROUT_WATTTIME_PASSWORD", SECRET)
    monkeypatch.setenv("SPROUT_ELECTRICITY_MAPS_TOKEN", SECRET)
    average = Kind("average", "direct")
    with pytest.raises(ConfigError, match="gives marginal direct intensity, not average direct"):
        make_source(SourceSettings("watttime", "CAISO_NORTH", None, average))
    with pytest.raises(ConfigError, match="gives average direct"):
        make_source(SourceSettings("uk", "GB", None, Kind("average", "lifecycle")))
    assert make_source(SourceSettings("electricity-maps", "DE", None, average)).kind == average
    for service in SERVICES:
        if service != "uk":
            with pytest.raises(ConfigError, match=r"--zone|--intensity-url"):
                make_source(SourceSettings(service, None, None, average))
    monkeypatch.delenv("SPROUT_ELECTRICITY_MAPS_TOKEN")
    with pytest.raises(ConfigError, match="SPROUT_ELECTRICITY_MAPS_TOKEN"):
        make_source(SourceSettings("electricity-maps", "DE", None, average))
