"""The watch goes on whatever fails around it: the judge, the disk, the database, the load."""

import threading
import time
from datetime import UTC, datetime

import pytest

from envs.errors import DataError, SproutError
from serving.ledger.journal import Journal, journal_files
from serving.quality.cell import Cell
from serving.quality.guard import CellState
from serving.quality.judges.reviews import Reviews
from serving.quality.sampling.sample import Sample
from serving.quality.sampling.shares import Shares
from serving.quality.watch import (
    MOST_SAMPLES,
    GridNow,
    QualityWatch,
    describe,
    month_start,
    week_start,
)
from serving.settings.guard_levels import GuardLevels
from tests.serving.hooks import config, hook, keeper, waited
from tests.serving.quality.verdicts import verdict


def sample(number=0, **changed):
    fields = {
        "decision_id": f"{number:032x}",
        "decided": time.time(),
        "route": "/v1/chat/completions",
        "model": "made",
        "policy_version": "v1",
        "served": "brief",
        "answer": "x",
        "tokens": 5,
        "joules": 10.0,
        "probability": 1.0,
        "task": "arithmetic",
        "zone": "SYNTHETIC",
        "floor": 0.9,
        "steered": True,
        "candidate": None,
        "body": {"messages": []},
    }
    return Sample(**(fields | changed))


class Judging:
    """Stands in for the evaluator: gives one verdict on each sample."""

    def __init__(self):
        self.answers = self
        self.result = {"result": "tie"}
        self.error = None
        self.go_on = threading.Event()
        self.go_on.set()

    def evaluate(self, each):
        self.go_on.wait()
        if self.error is not None:
            raise self.error
        return [
            verdict(
                verdict_id=each.decision_id, decision_id=each.decision_id, decided=each.decided,
                evaluation_joules=5.0, **self.result,
            )
        ]  # fmt: skip

    def publish(self):
        pass

    def close(self):
        pass


class Watched:
    def __init__(self, folder, **settings):
        settings = {"judge": "http://127.0.0.1:9", "judge_model": "j", "judge_delay": 0} | settings
        self.hook = hook(folder, **settings)
        self.keeper = keeper(self.hook)
        self.judging = Judging()
        self.grid = GridNow(0.0, 100.0)
        self.journal = Journal(self.hook.config.state)
        self.watch = QualityWatch(
            self.hook.config, self.keeper, self.judging, lambda cell, floor: False,
            lambda: self.grid, self.journal, Reviews(),
        )  # fmt: skip

    def metric(self, name, **labels):
        return self.keeper.registry.get_sample_value(name, labels) or 0.0

    def judged(self, count):
        return waited(lambda: self.metric("sprout_quality_samples_total", fate="judged") == count)

    def step(self):
        self.keeper.step()
        self.watch.step()

    def close(self):
        self.judging.go_on.set()
        self.watch.close()
        self.keeper.close()
        self.hook.close()


@pytest.fixture
def watched(tmp_path):
    made = Watched(tmp_path)
    yield made
    made.close()


def test_verdicts_move_the_guard_and_the_workers_hear_of_it(watched):
    watched.judging.result = {"result": "worse", "quality": 0.0}
    for number in range(60):
        watched.watch.take(sample(number))
    assert watched.judged(60)
    watched.step()
    state = watched.hook.config.state
    assert GuardLevels(state).of("made", "arithmetic", "SYNTHETIC").level == "l0"
    labels = {"model": "made", "task": "arithmetic", "zone": "SYNTHETIC"}
    assert watched.metric("sprout_guard_state", **labels) == 2
    assert watched.metric("sprout_evaluation_energy_joules_total") == 300.0
    moved = {"task": "arithmetic", "zone": "SYNTHETIC", "reason": "breached"}
    assert watched.metric("sprout_guard_moves_total", **moved) == 1


def test_a_sample_that_breaks_the_evaluator_does_not_stop_it(watched):
    watched.judging.error = RuntimeError("broken")
    watched.watch.take(sample(0))
    assert waited(lambda: watched.metric("sprout_quality_samples_total", fate="dropped") == 1)
    watched.judging.error = None
    watched.watch.take(sample(1))
    assert watched.judged(1)


def test_a_state_folder_that_cannot_be_read_does_not_stop_it(watched, monkeypatch):
    monkeypatch.setattr("serving.quality.watch._FAILED_SECONDS", 0.01)
    with monkeypatch.context() as broken:
        failed = threading.Event()

        def fail(state):
            failed.set()
            raise PermissionError

        broken.setattr("serving.quality.watch.count_in_flight", fail)
        watched.watch.take(sample(0))
        assert failed.wait(10)
    assert watched.judged(1)


def test_with_a_full_disk_a_sample_is_dropped_and_counted(watched):
    watched.watch.take(sample(0))
    assert watched.judged(1)
    watched.journal._full_bytes = 0
    watched.journal.close()
    watched.watch.take(sample(1))
    assert waited(lambda: watched.metric("sprout_quality_samples_total", fate="dropped") == 1)
    watched.journal._full_bytes = 1 << 30
    watched.journal._full_until = 0.0
    watched.watch.take(sample(2))
    assert watched.judged(2)


def test_samples_beyond_the_memory_are_dropped_and_counted(watched):
    watched.judging.go_on.clear()
    for number in range(MOST_SAMPLES + 10):
        watched.watch.take(sample(number))
    dropped = watched.metric("sprout_quality_samples_total", fate="dropped")
    # Those that are being judged have left the queue.
    assert 8 <= dropped <= 10


def test_verdicts_wait_while_the_database_is_away(tmp_path):
    away = tmp_path / "absent" / "ledger.db"
    watched = Watched(tmp_path, ledger=f"sqlite:///{away}")
    watched.judging.result = {"result": "worse", "quality": 0.0}
    for number in range(60):
        watched.watch.take(sample(number))
    assert watched.judged(60)
    watched.step()
    assert journal_files(watched.hook.config.state / "journal")
    away.parent.mkdir()
    watched.step()
    watched.step()
    levels = GuardLevels(watched.hook.config.state)
    assert levels.of("made", "arithmetic", "SYNTHETIC").level == "l0"
    watched.close()


def test_nothing_is_judged_before_it_is_time(tmp_path):
    watched = Watched(tmp_path, judge_delay=3600.0, judge_hours="forecast")
    watched.watch.take(sample(0))
    watched.step()
    # An older one has waited long enough, and comes first.
    watched.watch._waiting.clear()
    watched.watch.take(sample(1, decided=time.time() - 4000))
    watched.watch.take(sample(2))
    assert watched.judged(1)
    assert len(watched.watch._waiting) == 1
    watched.close()


def test_shares_follow_the_traffic_and_the_energy(watched):
    for number in range(60):
        watched.watch.take(sample(number))
    assert watched.judged(60)
    watched.watch._shares_time = 0.0
    watched.step()
    setting = GuardLevels(watched.hook.config.state).of("made", "arithmetic", "SYNTHETIC")
    # Judging takes half of a request's energy, and may take a hundredth of the traffic's.
    assert setting.share == pytest.approx(0.02)


def test_judges_that_are_too_slow_get_fewer_samples():
    shares = Shares(0.02, 1.0)
    cell = Cell("m", "t", "Z")

    def round_of(judged, dropped):
        for _ in range(judged):
            shares.saw(cell, 0.02, 10.0, 1.0)
        for _ in range(dropped):
            shares.dropped()
        shares.age(time.time())
        return shares.by_cell()[cell]

    assert round_of(100, 0) == pytest.approx(0.02)
    assert round_of(100, 100) == pytest.approx(0.01)
    slow = round_of(0, 100)
    assert slow == pytest.approx(0.001)
    assert slow < round_of(100, 0) < 0.0015


def test_a_request_that_is_deleted_is_not_judged_any_more(watched):
    watched.judging.go_on.clear()
    for number in range(5):
        watched.watch.take(sample(number))
    assert waited(lambda: len(watched.watch._waiting) == 3)
    gone = watched.watch._waiting[0][0].decision_id
    watched.watch.forget(gone)
    assert gone not in [each.decision_id for each, _ in watched.watch._waiting]
    assert watched.watch._bytes == sum(size for _, size in watched.watch._waiting)


@pytest.mark.parametrize("settings", [{"guard": "warn"}, {}])
def test_a_level_of_other_settings_does_not_outlive_them(tmp_path, settings):
    watched = Watched(tmp_path, **settings)
    watched.step()
    cell = Cell("made", "arithmetic", "SYNTHETIC")
    level = "l0" if settings else "eased"
    stored = CellState(level=level, floor=None if settings else 0.8, version="v1")
    with watched.watch._store.guard() as transaction:
        transaction.put(cell.key, stored.model_dump_json())
    watched.watch._guard._read = -1e9
    watched.step()
    setting = GuardLevels(watched.hook.config.state).of(*cell)
    assert setting is None or setting.level == "asked"
    watched.close()


def test_periods_of_the_metrics_have_fixed_starts():
    wednesday = datetime(2026, 3, 4, 15, 30, tzinfo=UTC).timestamp()
    assert week_start(wednesday) == datetime(2026, 3, 2, tzinfo=UTC).timestamp()
    assert month_start(wednesday) == datetime(2026, 2, 1, tzinfo=UTC).timestamp()
    january = datetime(2026, 1, 31, tzinfo=UTC).timestamp()
    assert month_start(january) == datetime(2025, 12, 1, tzinfo=UTC).timestamp()


def test_an_unknown_grid_does_not_matter(watched):
    watched.grid = None
    watched.watch.take(sample(0))
    assert watched.judged(1)
    watched.step()


def test_every_event_is_described():
    event = {"task": "faq", "model": "m", "zone": "Z", "floor": 0.9, "acted": True, "ratio": 0.8}
    event |= {"raised_floor": 0.97, "eased_floor": 0.89, "to": "l0"}
    for reason in ("breached", "returned", "eased", "released"):
        assert "faq" in describe(event | {"reason": reason})
    assert "kept at L0" in describe(event | {"reason": "breached"})
    assert "0.970" in describe(event | {"reason": "breached", "to": "raised"})
    assert "as asked again" in describe(event | {"reason": "breached", "to": "asked"})
    assert "--guard warn" in describe(event | {"reason": "breached", "acted": False})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"judge": "http://127.0.0.1:9"}, "--judge-model"),
        ({"judge_model": "j"}, "--judge URL"),
        ({"alarm_webhook": "http://127.0.0.1:9"}, "nobody judges"),
        ({"ease_floors": True}, "nobody judges"),
        ({"judge_redact": "absent"}, "cannot be read"),
        ({"judge_rubric": "absent"}, "cannot be read"),
    ],
)
def test_wrong_settings_are_refused_at_the_start(tmp_path, settings, message):
    with pytest.raises(SproutError, match=message):
        config(tmp_path, **settings).check_quality()


def test_wrong_patterns_are_named_by_their_line(tmp_path):
    path = tmp_path / "patterns"
    path.write_text("\\d+\n\n(\n")
    with pytest.raises(DataError, match="line 3"):
        config(tmp_path, judge_redact=path).redactions()
    path.write_text("\\d{2,3}\n\n")
    (pattern,) = config(tmp_path, judge_redact=path).redactions()
    assert pattern.sub("x", "a 123") == "a x"
    path.write_text("  \n")
    with pytest.raises(DataError, match="is empty"):
        config(tmp_path, judge_rubric=path).rubric()
