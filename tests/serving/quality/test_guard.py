"""The guard withdraws a policy that hurts, gives it back when it does not, and does not flap."""

import numpy as np
import pytest

from envs.errors import LedgerError
from serving.ledger.database import Ledger
from serving.ledger.quality.store import QualityStore
from serving.quality.cell import Cell
from serving.quality.guard import EASE_STEP, SPREAD_SECONDS, CellState, Guard, since_change
from serving.quality.judges.agreement import FULL, TrustTable
from tests.serving.quality.verdicts import verdict

CELL = Cell("made", "arithmetic", "SYNTHETIC")
FLOOR = 0.9


@pytest.fixture
def ledger(ledger_url):
    new_ledger = Ledger(ledger_url)
    new_ledger.migrate()
    yield new_ledger
    new_ledger.close()


def judged(count, *, good, arm="served", start=0.0, **changed):
    """Return verdicts one second apart: as good as L0's answer, or worse."""
    result = {} if good else {"result": "worse", "quality": 0.0}
    times = [{"decided": start + n + 1, "time": start + n + 1} for n in range(count)]
    return [verdict(arm=arm, **result, **at, **changed) for at in times]


class Simulated:
    """A guard without a database, over one cell."""

    def __init__(self, reaches=lambda cell, floor: False, act=True, ease=False):
        self.guard = Guard(None, reaches, act=act, ease=ease)
        self.state = CellState()
        self.events = []
        self.now = 0.0

    def count(self, verdicts, until_moved=False):
        for each in verdicts:
            if until_moved and self.events:
                return
            self.now = each.decided
            event = self.guard.count(CELL, self.state, each, self.now)
            if event is not None:
                self.events.append(event)


def test_a_fall_withdraws_the_policy_and_candidates_bring_it_back():
    simulated = Simulated()
    simulated.count(judged(1000, good=True))
    assert simulated.state.level == "asked"
    simulated.count(judged(60, good=False, start=1000))
    assert simulated.state.level == "l0"
    assert simulated.events[0]["reason"] == "breached"
    assert simulated.events[0]["ratio"] < 0.1
    assert simulated.events[0]["requests_since_change"] < 60
    # Answers of L0 are no evidence about the policy; bad candidates neither.
    simulated.count(judged(2000, good=True, start=1100))
    simulated.count(judged(50, good=False, arm="candidate", start=3100))
    assert simulated.state.level == "l0"
    simulated.count(judged(500, good=True, arm="candidate", start=3200))
    assert simulated.state.level == "asked"
    assert simulated.events[-1]["reason"] == "returned"
    assert simulated.events[-1]["evidence"] >= simulated.events[-1]["threshold"]


def half_bad(count, share, start=0.0, arm="served"):
    rng = np.random.default_rng(0)
    rows = []
    for n in range(count):
        rows += judged(1, good=rng.random() >= share, start=start + n, arm=arm)
    return rows


def test_a_small_fall_raises_the_price_as_far_as_is_missing():
    asked = []

    def reaches(cell, floor):
        asked.append((cell, floor))
        return floor < 0.99

    simulated = Simulated(reaches)
    simulated.count(half_bad(3000, 0.17), until_moved=True)
    assert simulated.state.level == "raised"
    event = simulated.events[0]
    assert asked[0] == (CELL, simulated.state.floor)
    assert simulated.state.floor == pytest.approx(2 * FLOOR - event["ratio"])
    # It does not help: the task goes to L0.
    simulated.count(half_bad(3000, 0.17, start=3100))
    assert [each["to"] for each in simulated.events] == ["raised", "l0"]


def test_no_price_is_raised_where_none_suffices():
    simulated = Simulated(lambda cell, floor: False)
    simulated.count(half_bad(3000, 0.17))
    assert [each["to"] for each in simulated.events] == ["l0"]


def test_verdicts_on_decisions_before_a_change_do_not_count_after_it():
    simulated = Simulated()
    simulated.count(judged(60, good=False))
    changed = simulated.state.since
    assert changed > SPREAD_SECONDS
    late = judged(1000, good=True, arm="candidate")
    for each in late:
        each.decided = changed - 1
    simulated.count(late)
    assert simulated.state.level == "l0"
    assert simulated.state.judged == 0


def test_at_the_floor_a_cell_does_not_flap():
    """A million requests at exactly the floor: at most one change in 2 million in the mean."""
    rng = np.random.default_rng(1)
    simulated = Simulated()
    states = [simulated.state]
    good = verdict()
    bad = verdict(result="worse", quality=0.0)
    moves = 0
    for n in range(40_000):
        each = bad if rng.random() < 0.1 else good
        each.arm = "served" if simulated.state.level == "asked" else "candidate"
        each.decided = float(n + 1)
        # One in 25 requests is judged.
        each.probability = 0.04
        moves += simulated.guard.count(CELL, states[0], each, float(n + 1)) is not None
    # More than 3 have a probability below 0.2 %.
    assert moves <= 3


def test_a_warning_guard_changes_nothing_and_warns_again():
    simulated = Simulated(act=False)
    simulated.count(judged(200, good=False))
    assert simulated.state.level == "asked"
    assert len(simulated.events) > 1
    assert not any(event["acted"] for event in simulated.events)


def test_another_policy_starts_without_evidence_at_the_same_level():
    simulated = Simulated()
    simulated.count(judged(60, good=False))
    simulated.count(judged(100, good=True, arm="candidate", start=100))
    simulated.count(judged(25, good=True, arm="candidate", start=300, policy_version="v2"))
    assert (simulated.state.level, simulated.state.version) == ("l0", "v2")
    assert simulated.state.judged == 5
    # A late verdict on the old policy is no evidence of the new one.
    simulated.count(judged(1, good=True, arm="candidate", start=200))
    assert simulated.state.version == "v2"


def test_two_policies_side_by_side_do_not_blind_it():
    """As while replicas are updated one by one."""
    simulated = Simulated()
    for n in range(200):
        version = "v2" if n % 2 else "v1"
        simulated.count(judged(1, good=False, start=n, policy_version=version))
    assert simulated.events[0]["reason"] == "breached"
    assert simulated.events[0]["policy_version"] == "v1"


def test_candidates_do_not_end_an_easing():
    simulated = easing(1.0, 250)
    simulated.count(judged(1000, good=True, arm="candidate", start=9000))
    assert simulated.state.level == "eased"


def test_failed_verdicts_and_tasks_without_a_floor_move_nothing():
    simulated = Simulated()
    simulated.count(judged(300, good=False, floor=None))
    failed = judged(300, good=True, start=300)
    for each in failed:
        each.result, each.quality, each.l0_quality = "failed", None, None
    simulated.count(failed)
    assert simulated.events == []


def test_a_judge_that_may_not_tighten_withdraws_nothing():
    table = TrustTable((), (), 0.4)
    trusted = table.of(verdict())
    table.of = lambda each: trusted._replace(tighten=False, restore=False)
    simulated = Simulated()
    simulated.guard.trust = table
    simulated.count(judged(300, good=False))
    assert simulated.state.level == "asked"


def test_the_fall_is_placed_where_it_began():
    good, bad = (1.0, 1.0, 2.0), (0.0, 1.0, 2.0)
    assert since_change([good] * 100 + [bad] * 10, FLOOR) == (0.0, 20.0)
    ratio, requests = since_change([good] * 100 + [good, bad] * 50, FLOOR)
    assert ratio == pytest.approx(0.5, abs=0.01)
    assert requests == pytest.approx(200, abs=3)


def test_replicas_share_one_state_and_count_each_verdict_once(ledger, ledger_url, monkeypatch):
    monkeypatch.setattr("serving.quality.guard._READ_SECONDS", -1.0)
    store = QualityStore(ledger)
    other_ledger = Ledger(ledger_url)
    guards = [
        Guard(QualityStore(each), lambda cell, floor: False) for each in (ledger, other_ledger)
    ]
    events = []
    rows = judged(60, good=False)
    for batch in (rows[:10], rows[10:35], rows[35:]):
        ledger.add(batch)
        # The same rows again, as after a crash of the keeper.
        ledger.add(batch)
        events += [event for guard in guards for event in guard.step()]
    assert [event["to"] for event in events] == ["l0"]
    for guard in guards:
        guard.step()
        assert guard.states[CELL].level == "l0"
    # A restart goes on from the stored state.
    again = Guard(store, lambda cell, floor: False)
    again.step()
    assert again.states[CELL].level == "l0"
    assert [event["reason"] for event in store.events()] == ["breached"]
    assert store.events()[0]["task"] == "arithmetic"
    other_ledger.close()


def test_a_guard_without_its_database_counts_nothing(tmp_path):
    guard = Guard(QualityStore(Ledger(f"sqlite:///{tmp_path}/absent/ledger.db")), lambda *_: False)
    with pytest.raises(LedgerError):
        guard.step()
    assert guard.states == {}


def easing(quality, count, start=0.0, simulated=None, **changed):
    """Return a guard that may ease, after answers that keep a share of L0's quality."""
    rng = np.random.default_rng(2)
    simulated = simulated or Simulated(ease=True)
    table = TrustTable((), (), 0.4)
    table.of = lambda each: FULL
    simulated.guard.trust = table
    for n in range(count):
        good = rng.random() < quality
        simulated.count(judged(1, good=good, start=start + 10 * n, **changed))
    return simulated


def test_a_price_is_eased_step_by_step_while_quality_exceeds_its_floor():
    simulated = easing(1.0, 6000)
    floors = [event["eased_floor"] for event in simulated.events]
    assert floors == pytest.approx([0.89, 0.88, 0.87, 0.86, 0.85])
    assert {event["to"] for event in simulated.events} == {"eased"}
    assert simulated.state.level == "eased"


def test_a_price_that_was_eased_too_far_goes_back_and_not_so_far_again():
    simulated = easing(1.0, 2000)
    eased = simulated.state.floor
    easing(0.7, 300, start=30_000, simulated=simulated)
    assert simulated.events[-1]["reason"] in ("breached", "returned")
    back = next(e for e in simulated.events if e["reason"] == "breached")
    assert (back["from"], back["to"]) == ("eased", "asked")
    assert simulated.state.least == pytest.approx(eased + EASE_STEP)


def test_nothing_is_eased_without_room_trust_or_leave():
    assert easing(0.9, 3000).events == []
    assert easing(1.0, 2000, simulated=Simulated()).events == []
    untrusted = Simulated(ease=True)
    untrusted.count(judged(2000, good=True))
    assert untrusted.events == []


def test_a_new_floor_is_eased_from_the_beginning_and_a_callers_is_not_counted():
    simulated = easing(1.0, 250)
    assert simulated.state.level == "eased"
    easing(1.0, 10, start=3000, simulated=simulated, floor=0.95)
    assert (simulated.state.asked, simulated.state.level) == (0.9, "eased")
    easing(1.0, 20, start=4000, simulated=simulated, floor=0.95)
    assert (simulated.state.asked, simulated.state.level) == (0.95, "asked")


def test_another_policys_price_is_not_eased():
    simulated = easing(1.0, 250)
    simulated.count(judged(20, good=True, start=9000, policy_version="v2"))
    assert (simulated.state.level, simulated.state.floor) == ("asked", None)


def test_an_operator_takes_a_level_back(ledger):
    store = QualityStore(ledger)
    guard = Guard(store, lambda cell, floor: False)
    ledger.add(judged(60, good=False))
    guard.step()
    assert guard.release(["poetry"]) == []
    assert guard.release(["arithmetic"]) == [CELL]
    guard.step()
    assert guard.states[CELL].level == "asked"
    assert [event["reason"] for event in store.events()] == ["breached", "released"]
