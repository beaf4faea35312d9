import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest
import sqlalchemy as sa

from envs.errors import ConfigError
from serving.ledger.database import Ledger
from serving.ledger.journal import Journal
from serving.ledger.record import Amendment, Record, new_id
from serving.ledger.tables import METADATA
from serving.settings.control import Control, LocalControl
from serving.settings.kill_switch import KillSwitch
from tests.serving.hooks import config, hook, keeper, records


@pytest.fixture
def ledger(ledger_url):
    new_ledger = Ledger(ledger_url)
    new_ledger.migrate()
    yield new_ledger
    new_ledger.close()


def row(**values):
    fields = {"decision_id": new_id(), "time": time.time(), "route": "/v1/responses"}
    return Record(**(fields | values))


def test_the_migrations_create_the_columns_of_the_records(ledger):
    inspector = sa.inspect(ledger._engine)
    for table in METADATA.tables.values():
        nullable = {c["name"]: c["nullable"] for c in inspector.get_columns(table.name)}
        assert nullable == {c.name: c.nullable for c in table.columns}


def test_a_record_is_stored_completely_and_only_once(ledger):
    record = row(grams=0.25, hold_out=True, completion_tokens=7, task="ä'b", status=200)
    ledger.add([record, row()])
    ledger.add([replace(record, grams=9.0)])
    assert ledger.find(record.decision_id) == asdict(record)
    assert len(list(ledger.rows(["decision_id"]))) == 2


def test_rows_are_sorted_and_selected_by_time(ledger):
    ledger.add([row(time=float(t)) for t in (5, 1, 3)])
    assert [t for (t,) in ledger.rows(["time"])] == [1, 3, 5]
    assert [t for (t,) in ledger.rows(["time"], since=2, until=5)] == [3]


def test_records_are_deleted_by_request_tenant_and_age(ledger):
    record = row(tenant="a")
    ledger.add([record, row(tenant="a"), row(tenant="b"), row(time=5.0)])
    assert ledger.delete(decision_id=record.decision_id) == 1
    assert ledger.delete(tenant="a") == 1
    assert ledger.delete(before=6.0) == 1
    assert [t for (t,) in ledger.rows(["tenant"])] == ["b"]
    with pytest.raises(ValueError, match="nothing named"):
        ledger.delete()


def test_replicas_that_start_together_share_one_salt(ledger_url):
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
    outputs = [replica.communicate(timeout=60) for replica in replicas]
    assert [replica.returncode for replica in replicas] == [0, 0, 0], outputs
    assert len({salt for salt, _ in outputs}) == 1


def test_an_operators_settings_are_shared_by_all_replicas(ledger, ledger_url):
    first = ledger.control(Control(mode="canary"))
    other = Ledger(ledger_url)
    # A replica that starts later does not reset the mode.
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
    current = ledger.control()
    assert (current.mode, current.hold_out_ratio, current.revision) == ("off", 0.5, 5)
    assert current.salt == first.salt


@pytest.mark.parametrize("url", ["nonsense", "mysql://a:secret@b/c", "sqlite+nope://"])
def test_a_wrong_ledger_url_is_refused_without_showing_its_password(url):
    with pytest.raises(ConfigError, match="--ledger: give sqlite") as error:
        Ledger(url)
    assert "secret" not in str(error.value)


def test_a_ledger_that_no_hook_has_used_is_an_error(ledger):
    with pytest.raises(ConfigError, match="no hook has used this ledger"):
        ledger.control()


def test_the_journal_reaches_the_database_after_a_cut_line_and_a_crash(tmp_path, ledger_url):
    made_hook = hook(tmp_path, ledger=ledger_url)
    journal = Journal(made_hook.config.state)
    ids = []
    ledger_keeper = keeper(made_hook)
    for _ in range(3):
        for _ in range(5):
            ids.append(new_id())
            journal.write(Record(ids[-1], time.time(), "/v1/responses"))
        ledger_keeper.step()
    # The last line is cut short, as by a full disk.
    path = next((made_hook.config.state / "journal").glob("*"))
    with path.open("ab") as file:
        file.write(b'{"decision_id": "cut')
    ledger_keeper.step()
    assert path.exists()
    journal.close()
    # After a crash, a later keeper reads the whole journal again.
    ledger_keeper.close()
    later_keeper = keeper(made_hook)
    later_keeper.step()
    assert sorted(i for (i,) in later_keeper.ledger.rows(["decision_id"])) == sorted(ids)
    assert records(made_hook) == []
    later_keeper.close()


def test_a_nul_in_a_text_does_not_stop_the_keeper(tmp_path, ledger_url):
    own = hook(tmp_path, ledger=ledger_url)
    journal = Journal(own.config.state)
    texts = ["a\x00b", "a\\u0000b", "plain"]
    rows = [row(model=text) for text in texts]
    for each in rows:
        journal.write(each)
    journal.write(Amendment(rows[2].decision_id, {"task": "\x00"}))
    own_keeper = keeper(own)
    own_keeper.step()
    stored = [own_keeper.ledger.find(each.decision_id) for each in rows]
    assert [each["model"] for each in stored] == ["ab", "a\\u0000b", "plain"]
    assert stored[2]["task"] == ""
    own_keeper.close()
    own.close()


def test_an_outcome_that_arrives_before_its_record_is_merged(tmp_path):
    made_hook = hook(tmp_path)
    late, early = Journal(made_hook.config.state), Journal(made_hook.config.state)
    ledger_keeper = keeper(made_hook)
    early.write(Amendment("d" * 32, {"status": 200, "completion_tokens": 3}))
    ledger_keeper.step()
    late.write(Record("d" * 32, 1.0, "/v1/responses", outcome="decided"))
    ledger_keeper.step()
    ledger_keeper.step()
    assert ledger_keeper.ledger.find("d" * 32)["completion_tokens"] == 3
    ledger_keeper.close()


def test_only_one_keeper_works_on_a_state_folder(tmp_path):
    made_hook = hook(tmp_path)
    first, second = keeper(made_hook), keeper(made_hook)
    first.step()
    Journal(made_hook.config.state).write(Record(new_id(), 1.0, "r"))
    second.step()
    assert len(records(made_hook)) == 1
    first.step()
    assert len(list(first.ledger.rows(["time"]))) == 1
    first.close()
    second.close()


def test_records_older_than_the_retention_time_are_deleted(tmp_path):
    made_hook = hook(tmp_path, retention_days=2.0)
    journal = Journal(made_hook.config.state)
    for days in (0, 1, 3):
        journal.write(Record(new_id(), time.time() - 86400 * days, "r"))
    ledger_keeper = keeper(made_hook)
    ledger_keeper.step()
    assert len(list(ledger_keeper.ledger.rows(["time"]))) == 2
    ledger_keeper.close()


def test_no_record_is_lost_while_the_database_is_down(tmp_path, postgres):
    url = postgres.database("away")
    made_hook = hook(tmp_path, ledger=url)
    ledger_keeper = keeper(made_hook)
    ledger_keeper.step()
    journal = Journal(made_hook.config.state)
    postgres.stop()
    try:
        for _ in range(2500):
            journal.write(Record(new_id(), time.time(), "r"))
        ledger_keeper.step()
        ledger_keeper.step()
        assert ledger_keeper.registry.get_sample_value("sprout_ledger_up") == 0
        assert ledger_keeper.registry.get_sample_value("sprout_journal_bytes") > 100_000
        # The last known settings still apply.
        assert made_hook.control.now.mode == "on"
    finally:
        postgres.start()
    ledger_keeper.step()
    assert ledger_keeper.registry.get_sample_value("sprout_ledger_up") == 1
    assert len(list(ledger_keeper.ledger.rows(["decision_id"]))) == 2500
    ledger_keeper.close()


def test_writing_to_a_full_journal_is_an_error(tmp_path):
    hook_config = config(tmp_path)
    journal = Journal(hook_config.state, full_bytes=10)
    journal.write(Record(new_id(), 1.0, "r"))
    journal.close()
    with pytest.raises(OSError, match="holds more than 10 bytes"):
        journal.write(Record(new_id(), 1.0, "r"))


def test_settings_of_a_refused_start_are_replaced_but_not_its_kill_switch(ledger):
    refused = ledger.control(Control(mode="on", hold_out_ratio=0.5))
    ledger.merge_kill(refused.kill.engage("command"))
    given = Control(mode="shadow", hold_out_ratio=0.1)
    control = ledger.control(given, renew=True)
    assert (control.mode, control.hold_out_ratio, control.salt) == ("shadow", 0.1, given.salt)
    assert control.kill.active
    ledger.set_control(started=True)
    assert ledger.control(refused, renew=True).salt == given.salt


def test_settings_of_versions_that_did_not_note_a_start_have_served(ledger, tmp_path):
    rules = [{"name": "legal", "when": {"tenant": "legal-*"}, "forbid": True}]
    old = Control.model_validate({"mode": "on", "hold_out_ratio": 0.2, "rules": rules})
    text = old.model_dump_json(exclude={"started"})
    ledger.control(old)
    with ledger._engine.begin() as connection:
        connection.execute(sa.text("UPDATE control SET setting = :text"), {"text": text})
    kept = ledger.control(Control(mode="shadow"), renew=True)
    assert (kept.mode, kept.hold_out_ratio, kept.salt) == ("on", 0.2, old.salt)
    assert kept.rules[0].name == "legal"
    (tmp_path / "control.json").write_text(text)
    local = LocalControl(tmp_path, Control(), KillSwitch([tmp_path]))
    assert (local.stored.mode, local.stored.started) == ("on", True)
