import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest
import sqlalchemy as sa

from envs.errors import ConfigError
from serving.ledger.database import METADATA, Ledger
from serving.ledger.journal import Journal
from serving.ledger.record import Amendment, Record, new_id
from serving.settings.control import Control
from tests.serving.hooks import config, hook, keeper, records


@pytest.fixture
def ledger(ledger_url):
    found = Ledger(ledger_url)
    found.migrate()
    yield found
    found.close()


def row(**given):
    fields = {"decision_id": new_id(), "time": time.time(), "route": "/v1/responses"}
    return Record(**(fields | given))


def test_the_migrations_make_what_the_records_need(ledger):
    inspector = sa.inspect(ledger._engine)
    for table in METADATA.tables.values():
        there = {c["name"]: c["nullable"] for c in inspector.get_columns(table.name)}
        assert there == {c.name: c.nullable for c in table.columns}


def test_a_record_is_kept_whole_and_once(ledger):
    kept = row(grams=0.25, hold_out=True, completion_tokens=7, task="ä'b", status=200)
    ledger.add([kept, row()])
    ledger.add([replace(kept, grams=9.0)])
    assert ledger.find(kept.decision_id) == asdict(kept)
    assert len(list(ledger.rows(["decision_id"]))) == 2


def test_rows_come_by_time(ledger):
    ledger.add([row(time=float(t)) for t in (5, 1, 3)])
    assert [t for (t,) in ledger.rows(["time"])] == [1, 3, 5]
    assert [t for (t,) in ledger.rows(["time"], since=2, until=5)] == [3]


def test_records_are_deleted_by_request_tenant_and_age(ledger):
    one = row(tenant="a")
    ledger.add([one, row(tenant="a"), row(tenant="b"), row(time=5.0)])
    assert ledger.delete(decision_id=one.decision_id) == 1
    assert ledger.delete(tenant="a") == 1
    assert ledger.delete(before=6.0) == 1
    assert [t for (t,) in ledger.rows(["tenant"])] == ["b"]
    with pytest.raises(ValueError, match="nothing named"):
        ledger.delete()


def test_replicas_start_at_once(ledger_url):
    code = (
        "import sys; from serving.ledger.database import Ledger\n"
        "from serving.settings.control import Control\n"
        "l = Ledger(sys.argv[1]); l.migrate(); print(l.control(Control()).salt)"
    )
    replicas = [
        subprocess.Popen(
            [sys.executable, "-c", code, ledger_url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    said = [replica.communicate(timeout=60) for replica in replicas]
    assert [replica.returncode for replica in replicas] == [0, 0, 0], said
    assert len({salt for salt, _ in said}) == 1


def test_what_operators_set_is_one_for_all(ledger, ledger_url):
    first = ledger.control(Control(mode="canary"))
    other = Ledger(ledger_url)
    # A replica that starts later does not set it back.
    assert other.control(Control(mode="on")) == first
    other.set_control(mode="off")
    threads = [
        threading.Thread(target=lambda: Ledger(ledger_url).set_control(hold_out_ratio=0.5))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    now = ledger.control()
    assert (now.mode, now.hold_out_ratio, now.revision) == ("off", 0.5, 5)
    assert now.salt == first.salt


@pytest.mark.parametrize("url", ["nonsense", "mysql://a:secret@b/c", "sqlite+nope://"])
def test_what_is_no_database_is_refused_without_its_password(url):
    with pytest.raises(ConfigError, match="--ledger: give sqlite") as error:
        Ledger(url)
    assert "secret" not in str(error.value)


def test_a_ledger_that_nobody_used_says_so(ledger):
    with pytest.raises(ConfigError, match="no hook has used this ledger"):
        ledger.control()


def test_the_journal_reaches_the_database_whatever_its_writer_came_to(tmp_path, ledger_url):
    made = hook(tmp_path, ledger=ledger_url)
    journal = Journal(made.config.state)
    ids = []
    kept = keeper(made)
    for _ in range(3):
        for _ in range(5):
            ids.append(new_id())
            journal.write(Record(ids[-1], time.time(), "/v1/responses"))
        kept.step()
    # Cut short in the middle of a line, as by a full disk.
    path = next((made.config.state / "journal").glob("*"))
    with path.open("ab") as file:
        file.write(b'{"decision_id": "cut')
    kept.step()
    assert path.exists()
    journal.close()
    # A later keeper, after a crash, reads all of it again.
    kept.close()
    again = keeper(made)
    again.step()
    assert sorted(i for (i,) in again.ledger.rows(["decision_id"])) == sorted(ids)
    assert records(made) == []
    again.close()


def test_an_outcome_may_overtake_its_request(tmp_path):
    made = hook(tmp_path)
    late, early = Journal(made.config.state), Journal(made.config.state)
    kept = keeper(made)
    early.write(Amendment("d" * 32, {"status": 200, "completion_tokens": 3}))
    kept.step()
    late.write(Record("d" * 32, 1.0, "/v1/responses", outcome="decided"))
    kept.step()
    kept.step()
    assert kept.ledger.find("d" * 32)["completion_tokens"] == 3
    kept.close()


def test_one_keeper_a_state_folder(tmp_path):
    made = hook(tmp_path)
    first, second = keeper(made), keeper(made)
    first.step()
    Journal(made.config.state).write(Record(new_id(), 1.0, "r"))
    second.step()
    assert len(records(made)) == 1
    first.step()
    assert len(list(first.ledger.rows(["time"]))) == 1
    first.close()
    second.close()


def test_old_records_go(tmp_path):
    made = hook(tmp_path, retention_days=2.0)
    journal = Journal(made.config.state)
    for days in (0, 1, 3):
        journal.write(Record(new_id(), time.time() - 86400 * days, "r"))
    kept = keeper(made)
    kept.step()
    assert len(list(kept.ledger.rows(["time"]))) == 2
    kept.close()


def test_a_database_that_goes_away_loses_nothing(tmp_path, postgres):
    url = postgres.database("away")
    made = hook(tmp_path, ledger=url)
    kept = keeper(made)
    kept.step()
    journal = Journal(made.config.state)
    postgres.stop()
    try:
        for _ in range(2500):
            journal.write(Record(new_id(), time.time(), "r"))
        kept.step()
        kept.step()
        assert kept.registry.get_sample_value("sprout_ledger_up") == 0
        assert kept.registry.get_sample_value("sprout_journal_bytes") > 100_000
        # The last settings hold.
        assert made.control.now.mode == "on"
    finally:
        postgres.start()
    kept.step()
    assert kept.registry.get_sample_value("sprout_ledger_up") == 1
    assert len(list(kept.ledger.rows(["decision_id"]))) == 2500
    kept.close()


def test_a_full_journal_is_counted_and_nothing_else(tmp_path):
    made = config(tmp_path)
    journal = Journal(made.state, full_bytes=10)
    journal.write(Record(new_id(), 1.0, "r"))
    journal.close()
    with pytest.raises(OSError, match="holds more than 10 bytes"):
        journal.write(Record(new_id(), 1.0, "r"))
