from serving.processes.parent_services import overridden
from serving.settings.control import Control
from serving.settings.rules import check_rules


def rules(mode):
    return check_rules([{"name": "a", "mode": mode}], "given")


def test_every_flag_that_the_ledger_overrides_is_named():
    given = Control(mode="on", canary_ratio=0.1, hold_out_ratio=0.2, rules=rules("on"))
    assert overridden(given, given.model_copy(update={"salt": "0" * 32, "revision": 3})) == []
    stored = Control(
        mode="shadow", canary_ratio=0.2, canary_tasks=("t",), hold_out_ratio=0.0, rules=rules("off")
    )
    lines = overridden(given, stored)
    assert [line.split()[0] for line in lines] == [
        "--mode",
        "--canary",
        "--canary-tasks",
        "--hold-out",
        "--rules",
    ]
    assert lines[0].startswith("--mode is 'shadow', as set in the ledger, not 'on'")
