import itertools
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from serving.settings.kill_switch import KillState, KillSwitch


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(("engage", "release", "merge"))), max_size=12
    )
)
def test_an_engagement_is_lifted_only_by_a_release_that_has_seen_it(steps):
    replicas = [KillState()] * 3
    for at, what in steps:
        if what == "engage":
            replicas[at] = replicas[at].engage("command")
        elif what == "release":
            seen = set(replicas[at].engaged)
            replicas[at] = replicas[at].release()
            assert seen <= replicas[at].released
        else:
            replicas[at] = replicas[at].merged(replicas[at - 1])
    lifted = frozenset().union(*(replica.released for replica in replicas))
    engaged = frozenset().union(*(replica.engaged for replica in replicas))
    # In whatever order the replicas meet, they agree, and nothing is lost.
    merged = set()
    for order in itertools.permutations(replicas):
        state = order[0]
        for other in order[1:]:
            state = state.merged(other)
        merged.add(tuple(state.active))
    assert merged == {tuple(sorted(engaged - lifted))}


def test_all_processes_of_a_replica_see_it_even_if_one_folder_cannot_be_written(tmp_path):
    state, runtime = tmp_path / "missing", tmp_path / "runtime"
    runtime.mkdir()
    switch, worker = KillSwitch([state, runtime]), KillSwitch([state, runtime])
    switch.merge(switch.state.engage("admin"))
    worker.refresh()
    assert worker.reasons == switch.reasons
    assert worker.reasons[0].startswith("admin on ")
    # A damaged file releases nothing.
    (runtime / "off.json").write_text("{")
    worker.refresh()
    assert worker.reasons == switch.reasons
    switch.merge(switch.state.release())
    worker.refresh()
    assert worker.reasons == []


def test_a_file_that_could_not_be_read_is_read_again(tmp_path, monkeypatch):
    worker = KillSwitch([tmp_path])
    KillSwitch([tmp_path]).merge(KillState().engage("command"))
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(tmp_path / "missing"))
    worker.refresh()
    assert worker.reasons == []
    monkeypatch.setattr(Path, "read_bytes", read)
    worker.refresh()
    assert len(worker.reasons) == 1


def test_a_volume_that_cannot_be_written_is_tried_again(tmp_path):
    state, runtime, mounted = tmp_path / "state", tmp_path / "runtime", tmp_path / "off"
    runtime.mkdir()
    mounted.touch()
    switch = KillSwitch([state, runtime], mounted)
    for _ in range(3):
        switch.watch()
    assert len(switch.state.active) == 1
    assert switch.unwritten == [state / "off.json"]
    state.mkdir()
    switch.watch()
    assert switch.unwritten == []
    assert KillSwitch([state]).state == switch.state


def test_an_operator_and_the_replica_do_not_overwrite_each_other(tmp_path):
    replica, operator = KillSwitch([tmp_path]), KillSwitch([tmp_path])
    replica.merge(replica.state.engage("signal"))
    operator.merge(KillState().engage("command"))
    replica.merge(replica.state)
    assert len(replica.state.active) == len(KillSwitch([tmp_path]).state.active) == 2
