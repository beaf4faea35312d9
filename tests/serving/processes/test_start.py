"""A first start refuses what a restart does not steer, and the start says what is in use."""

import json
import time
import urllib.request

import pytest

from envs.carbon.intensity import iso
from tests import made
from tests.serving.hooks import CHAT, post, waited
from tests.serving.launch import ended, serving


def hours(days_ago=0.0, values=(200, 300), zone="X"):
    """Return rows of a trace of two days that ended `days_ago`."""
    end = (time.time() - 86400 * days_ago) // 3600 * 3600
    return [(end - 3600 * h, values[h % 2], zone) for h in range(47, -1, -1)]


def write(trace, rows):
    lines = [f"{iso(at)},{zone},{value}" for at, value, zone in rows]
    trace.write_text("\n".join(["timestamp_utc,zone,carbon_intensity_g_per_kwh", *lines]) + "\n")


def readyz(server):
    with urllib.request.urlopen(f"{server.url}/readyz", timeout=10) as answer:
        return json.loads(answer.read())


@pytest.mark.long
def test_a_bundle_for_another_model_is_refused_at_a_first_start_and_not_steered_later(
    upstream, folder
):
    ledger = f"sqlite:///{folder}/ledger.db"
    upstream.model = "other"
    for _ in range(2):
        # A refused start was no start.
        status, lines = ended(upstream.url, folder, "--ledger", ledger)
        assert status == 2
        assert "for model 'made', and its upstream lists 'other'; give the policy" in lines[-1]
        assert lines[-1].startswith("sprout: --policy: bundle")
    upstream.model = "made"
    with serving(upstream.url, folder, ledger=ledger) as server:
        assert server.chosen() == "very_brief"
        assert waited(lambda: server.ledger.control().started)
    upstream.model = "other"
    with serving(upstream.url, folder, ledger=ledger) as server:
        headers = post(server.url, CHAT)[2]
        assert (headers["x-sprout-directive"], headers["x-sprout-mode"]) == ("none", "shadow")
        assert headers["x-sprout-would-be"] == "very_brief"
        assert "model made: not steered until this is mended" in readyz(server)["problems"][0]
        upstream.model = "made"
        assert waited(lambda: not readyz(server)["not_steered"], 15)
        assert server.chosen() == "very_brief"


@pytest.mark.long
def test_a_wrong_intensity_is_refused_at_a_first_start_and_not_steered_at_a_restart(
    upstream, folder
):
    trace = folder / "grid.csv"
    ledger = f"sqlite:///{folder}/ledger.db"
    wrong = {
        "days ago: give a current trace": hours(days_ago=60),
        "holds several zones; name one of X, Y as the zone (--zone)": hours() + hours(zone="Y"),
        "give grams per kWh (1 kg/kWh = 1000 g/kWh)": hours(values=(0.2, 0.3)),
    }
    for message, rows in wrong.items():
        write(trace, rows)
        status, lines = ended(
            upstream.url, folder, "--intensity", str(trace), "--ledger", ledger, clock=False
        )
        assert (status, len([line for line in lines if "sprout: " in line])) == (2, 1), lines
        assert message in lines[-1]
        assert not [line for line in lines if "Warning" in line]
    write(trace, hours())
    with serving(upstream.url, folder, "--intensity", str(trace), ledger=ledger) as server:
        assert server.chosen() == "very_brief"
        assert waited(lambda: server.ledger.control().started)
    write(trace, hours(days_ago=60))
    with serving(upstream.url, folder, "--intensity", str(trace), ledger=ledger) as server:
        headers = post(server.url, CHAT)[2]
        assert (headers["x-sprout-directive"], headers["x-sprout-mode"]) == ("none", "shadow")
        write(trace, hours())
        assert waited(lambda: server.chosen() == "very_brief")


def test_the_start_says_what_is_in_use(upstream, folder):
    with serving(upstream.url, folder, "--zone", "SYNTHETIC") as server:
        assert waited(lambda: "sprout serves" in text(folder))
        log = text(folder)
    for line in (
        "mode: on",
        "upstream (default): serves made",
        "carbon intensity: ",
        "(mean 303), zone SYNTHETIC, average direct, live, age 0 s",
        "WARNING sprout: carbon intensity: a synthetic day",
    ):
        assert line in log
    assert server.process.poll() is not None


def text(folder):
    return next(folder.glob("log*")).read_text()


@pytest.mark.long
def test_a_model_that_was_replaced_under_its_name_is_no_longer_steered(upstream, folder):
    made.bundle(folder / "bundle", extra={"answers": {"models": ["made"], "fingerprints": []}})
    flags = ("--workers", "2")
    with (
        serving(upstream.url, folder, *flags) as server,
        serving(upstream.url, folder, "--on-model-change", "warn") as warning,
    ):
        assert server.chosen() == warning.chosen() == "very_brief"
        upstream.named = "made-7b"
        assert waited(lambda: {server.chosen() for _ in range(6)} == {"none"})
        assert server.metric("sprout_model_suspended{") == 1
        assert "its answers are from model 'made-7b'" in str(readyz(server)["problems"])
        for _ in range(5):
            assert warning.chosen() == "very_brief"
        assert waited(lambda: "(--on-model-change warn)" in texts(folder))


def texts(folder):
    return "".join(path.read_text() for path in folder.glob("log*"))


@pytest.mark.long
def test_the_flags_of_a_refused_start_do_not_outlive_it(upstream, folder):
    ledger = f"sqlite:///{folder}/ledger.db"
    rules = folder / "rules.yaml"
    for rule, message in (
        ("{name: a, force: very_breif}", "nobody knows 'very_breif'; did you mean 'very_brief'?"),
        ("{name: a, when: {task: arithmetics}, forbid: true}", "did you mean 'arithmetic'?"),
        ("{name: a, when: {model: large}, forbid: true}", "known: made"),
    ):
        rules.write_text(f"- {rule}\n")
        flags = ("--rules", str(rules), "--hold-out", "0.5", "--ledger", ledger)
        status, lines = ended(upstream.url, folder, *flags)
        assert (status, message in lines[-1]) == (2, True), lines
    with serving(upstream.url, folder, "--state", str(folder / "ended"), ledger=ledger) as server:
        assert server.chosen() == "very_brief"
        control = server.ledger.control()
        assert (control.hold_out_ratio, control.rules) == (0.0, ())
        # A wildcard may be meant for what is still to come.
        for task, expected in (("arithmetics", 422), ("legal*", 200), ("arith*", 200)):
            rule = {"name": "a", "when": {"task": task}, "forbid": True}
            assert server.ask("/v1/control", "PATCH", {"rules": [rule]})[0] == expected
