"""The report on quality is the same from either database, and is JSON."""

import json
import time

import orjson
import pytest

from serving.ledger.database import Ledger
from serving.ledger.quality.feedback import Feedback
from serving.ledger.quality.store import QualityStore
from serving.ledger.quality.tallies import QualityTallies
from serving.ledger.record import Record, new_id
from serving.quality.guard import Guard
from serving.quality.report import read_length_control, read_quality
from serving.quality.signs import read_signs
from tests.serving.quality.verdicts import verdict

NOW = time.time()


@pytest.fixture
def ledger(ledger_url):
    new_ledger = Ledger(ledger_url)
    new_ledger.migrate()
    yield new_ledger
    new_ledger.close()


def judged(count, **changed):
    # A floor that is low enough for the guard to leave the cell alone.
    at = {"decided": NOW - 1000, "time": NOW - 900, "floor": 0.2}
    rows = [verdict(**(at | changed)) for _ in range(count)]
    for place, row in enumerate(rows):
        row.decided += 0.001 * place
    return rows


def counted(ledger, rows):
    ledger.add(rows)
    Guard(QualityStore(ledger), lambda cell, floor: False).step()
    return read_quality(ledger, NOW - 86400, NOW)


def test_a_cell_shows_its_ratio_its_interval_and_its_results(ledger):
    rows = judged(180, judge_tokens=100, judge_seconds=0.5, consistent=True)
    rows += judged(20, result="worse", quality=0.0, consistent=False)
    rows += judged(5, result="failed", quality=None, l0_quality=None)
    quality = counted(ledger, rows)
    (cell,) = quality["cells"]
    assert (cell["task"], cell["level"], cell["floor"]) == ("arithmetic", "asked", 0.2)
    served = cell["served"]
    assert served["ratio"] == pytest.approx(0.9)
    low, high = served["interval"]
    assert 0.8 < low < 0.9 < high < 1.0
    assert (served["verdicts"], served["requests"]) == (200, 200)
    assert served["results"] == {"tie": 180, "worse": 20, "failed": 5}
    (judge,) = quality["judges"]
    assert judge["consistent_ratio"] == pytest.approx(0.9)
    assert (judge["tokens"], judge["seconds"], judge["joules"]) == (18_000, 90.0, None)
    assert json.loads(orjson.dumps(quality)) == json.loads(json.dumps(quality))


def test_requests_count_by_what_they_stand_for(ledger):
    rows = judged(50, probability=0.5)
    rows += judged(100, result="worse", quality=0.0, floor=None)
    (cell,) = counted(ledger, rows)["cells"]
    assert cell["served"]["ratio"] == pytest.approx(0.5)
    assert cell["served"]["requests"] == pytest.approx(200)


def test_only_what_the_guard_heeds_since_the_last_change_counts(ledger):
    rows = judged(9, result="worse", quality=0.0, policy_version="v0", decided=NOW - 5000)
    rows += judged(40) + judged(40, result="worse", quality=0.0, heeded=False)
    (cell,) = counted(ledger, rows)["cells"]
    assert (cell["policy_version"], cell["served"]["ratio"]) == ("v1", 1.0)


def test_judging_is_compared_with_the_traffic(ledger):
    fields = {"status": 200, "outcome": "completed", "grams": 0.1}
    path = "/v1/chat/completions"
    users = [Record(new_id(), NOW - 100, path, energy_joules=100.0, **fields) for _ in range(10)]
    made = Record(
        new_id(),
        NOW - 100,
        "/v1/chat/completions",
        reason="evaluation",
        energy_joules=6.0,
        **fields,
    )
    ledger.add([*users, made])
    cost = counted(ledger, judged(1, judge_joules=4.0))["evaluation"]
    assert (cost["traffic_joules"], cost["answers_joules"]) == (1000.0, 6.0)
    assert (cost["judge_joules"], cost["energy_ratio"]) == (4.0, pytest.approx(0.01))


def test_the_judge_is_compared_with_people_and_controls(ledger):
    machine = judged(30)
    people = [
        verdict(
            decision_id=m.decision_id, decided=m.decided, judge="people:ann", rubric=None,
            heeded=False, result="worse" if n < 3 else "tie",
        )
        for n, m in enumerate(machine)
    ]  # fmt: skip
    controls = judged(10, arm="control", heeded=False, result="worse", quality=0.0)
    quality = counted(ledger, [*machine, *people, *controls])
    overall = next(row for row in quality["agreement"] if row["task"] is None)
    assert (overall["pairs"], overall["agreement"]) == (30, pytest.approx(0.9))
    assert overall["bias"] == pytest.approx(0.05)
    assert quality["controls"] == [
        {"judge": "llm:judge", "rubric": "r1", "pairs": 10, "recognised": 10}
    ]
    # Controls and people are in nobody's quality.
    assert quality["cells"][0]["served"]["verdicts"] == 30


def test_length_control_takes_the_pairs_that_a_reference_knows_for_anchors(ledger):
    rows = []
    for n in range(60):
        (machine,) = judged(1, tokens=10, l0_tokens=50, result="worse" if n % 2 else "tie")
        rows.append(machine)
        if n < 30:
            rows.append(
                verdict(
                    decision_id=machine.decision_id, decided=machine.decided, judge="reference",
                    rubric=None, tokens=10, l0_tokens=50, heeded=False,
                )
            )  # fmt: skip
    ledger.add(rows)
    (row,) = read_length_control(ledger, NOW - 86400, NOW)
    assert (row["judge"], row["anchors"]) == ("llm:judge", 30)
    assert row["raw"][0] == pytest.approx(0.25)
    # On equally good pairs the judge is as hard on short answers, so all of it is length.
    assert row["controlled"][0] == pytest.approx(0.5, abs=0.02)


def test_what_is_known_of_an_answer_is_deleted_with_its_request(ledger):
    record = Record(new_id(), NOW - 100, "/v1/chat/completions", tenant="a")
    ledger.add([record])
    ledger.add([verdict(decision_id=record.decision_id), verdict()])
    store = QualityStore(ledger)
    rows = [Feedback("f", record.decision_id, NOW, "user", 1.0, None, "text")]
    store.add_feedback(rows)
    assert ledger.delete(tenant="a") == 1
    assert store.feedback() == []
    assert sum(tally.verdicts for tally in QualityTallies(ledger).judges(0.0, NOW)) == 1


def test_opinions_on_unknown_answers_and_old_verdicts_expire(ledger):
    store = QualityStore(ledger)
    ledger.add([verdict(decided=NOW - 1000), verdict(decided=NOW - 10)])
    ages = {"old": NOW - 7200, "new": NOW - 60}
    store.add_feedback(
        [Feedback(name, new_id(), at, "user", 1.0, None, None) for name, at in ages.items()]
    )
    assert store.expire(NOW - 500) == 1
    assert [row.feedback_id for row in store.feedback()] == ["new"]
    assert sum(tally.verdicts for tally in QualityTallies(ledger).judges(0.0, NOW)) == 1


def test_a_late_opinion_does_not_take_the_place_of_a_newer_one(ledger):
    store, decision = QualityStore(ledger), new_id()
    for at, value in ((NOW, 0.0), (NOW - 60, 1.0)):
        store.add_feedback([Feedback("f", decision, at, "user", value, None, None)])
    assert [row.value for row in store.feedback()] == [0.0]


def test_an_empty_ledger_has_an_empty_report(ledger):
    quality = read_quality(ledger, NOW - 86400, NOW)
    assert (quality["cells"], quality["judges"], quality["agreement"]) == ([], [], [])
    assert quality["evaluation"]["energy_ratio"] is None
    assert read_length_control(ledger, NOW - 86400, NOW) == []
    assert read_signs(ledger, NOW - 86400, NOW)["tasks"] == {}
