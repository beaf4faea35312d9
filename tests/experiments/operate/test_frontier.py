"""Savings of each floor, from a bundle alone; and the command that sets floors."""

import json
from contextlib import closing
from dataclasses import replace

import pytest

from experiments.cli import main
from serving.ledger.database import Ledger
from serving.settings.control import Control
from tests import made


def frontier(tmp_path, *flags):
    out = tmp_path / "front.json"
    status = main(["frontier", str(tmp_path / "bundle"), *flags, "--json", str(out)])
    return status, json.loads(out.read_text()) if status == 0 else None


@pytest.fixture
def bundle(tmp_path):
    return made.priced_bundle(tmp_path / "bundle")


def test_each_floor_has_the_saving_that_its_quality_leaves(bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    status, result = frontier(tmp_path)
    assert status == 0
    for task, kept in made.KEPT.items():
        rows = result["tasks"][task]
        for row in rows:
            # The share of L0 at which quality is the floor; very brief answers cost 2 of 50 tokens.
            of_l0 = max(0.0, (row["floor"] - kept) / (1 - kept))
            assert row["quality"] == pytest.approx(max(row["floor"], kept), abs=0.01)
            assert row["saving_pct"] == pytest.approx(100 * (1 - of_l0) * 0.96, abs=1)
            assert row["saving_ci95"][0] < row["saving_pct"] < row["saving_ci95"][1]
        assert [row["floor"] for row in rows if row["origin"] == "policy"] == [0.95]
    shown = capsys.readouterr().out
    assert "faq, zone SYNTHETIC" in shown
    assert "USD and kWh per 1,000" in shown


def test_a_floor_that_is_asked_about_is_compared_with_the_policys_own(bundle, tmp_path, capsys):
    status, result = frontier(tmp_path, "--floor", "legal=.8", "--out", str(tmp_path / "f.png"))
    assert status == 0
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    asked = [row for row in result["tasks"]["legal"] if row["origin"] == "asked"]
    assert [row["floor"] for row in asked] == [0.8]
    text = " ".join(capsys.readouterr().out.split())
    assert "legal: a floor of 0.8 in place of 0.95 saves 38." in text
    assert "in place of 9." in text
    assert "all tasks, in the profile's mix:" in text


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--floor", "faqs=.9"], "no task 'faqs'; the tasks are faq, legal"),
        (["--zone", "NL"], "--zone NL: not measured; give one of SYNTHETIC"),
        (["--floor", "2"], "give a ratio from 0 to 1"),
    ],
)
def test_what_the_front_does_not_have_is_refused(bundle, tmp_path, capsys, flags, problem):
    assert frontier(tmp_path, *flags)[0] == 2
    assert problem in capsys.readouterr().err


def test_a_floor_that_breaks_a_latency_limit_is_marked(bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    # The limit allows as much latency as a floor of .95 needs.
    curve = bundle.front.zones["SYNTHETIC"]["legal"]
    curve = replace(curve, overshoot=curve.quality - 0.96)
    front = replace(bundle.front, zones={"SYNTHETIC": {"legal": curve}})
    made.bundle(tmp_path / "bundle", tasks=("legal",), extra={"floors": {}}, front=front)
    _, result = frontier(tmp_path)
    kept = {row["floor"]: row["limits_kept"] for row in result["tasks"]["legal"]}
    assert kept[0.95]
    assert not kept[0.97]
    assert "over its limit" in capsys.readouterr().out


def test_a_policy_without_a_front_is_refused(tmp_path, capsys):
    made.bundle(tmp_path / "bundle")
    assert frontier(tmp_path)[0] == 2
    assert "has no front" in capsys.readouterr().err


def test_floors_are_set_shown_and_cleared_on_the_ledger(tmp_path, capsys):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with closing(Ledger(url)) as ledger:
        ledger.migrate()
        ledger.control(Control())
        ledger.keep_policy("v", {"tasks": ["faq", "legal"], "catalogue": [], "model": "m"})

    def floors(*flags):
        status = main(["floor", *flags, "--ledger", url])
        with closing(Ledger(url)) as ledger:
            return status, ledger.control().floors

    assert floors("faq=.97,legal=.9") == (0, {"faq": 0.97, "legal": 0.9})
    assert floors("0.8", "--clear", "legal") == (0, {"faq": 0.97, "*": 0.8})
    capsys.readouterr()
    assert floors() == (0, {"faq": 0.97, "*": 0.8})
    assert json.loads(capsys.readouterr().out) == {"faq": 0.97, "*": 0.8}
    assert floors("fag=.9")[0] == 2
    assert "nobody knows task 'fag'; did you mean 'faq'" in capsys.readouterr().err
    assert floors("faq=1.2")[0] == 2
    assert floors("--clear", "faq,*") == (0, {})
