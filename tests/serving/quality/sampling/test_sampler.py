"""Which requests are judged, what is made of them, and how the guard's levels reach requests."""

import asyncio
import json

import pytest

from serving.ledger.database import Ledger
from serving.quality.sampling.sample import Sample
from serving.quality.sampling.sampler import MOST_WAITING, SocketReceiver, SocketSender
from serving.settings.guard_levels import CellSetting, write_levels
from tests import made
from tests.serving import hooks
from tests.serving.hooks import CHAT, hook, post, waited
from tests.serving.launch import serving
from tests.serving.quality.samples import FLOORED, JUDGED, TAG, Taken, sampled


def test_a_steered_request_is_sampled_with_its_answer(tmp_path):
    plan, (sample,) = sampled(tmp_path)
    assert sample.decision_id == plan.record.decision_id
    assert (sample.served, sample.answer, sample.candidate) == ("very_brief", "Hello", None)
    assert (sample.task, sample.zone, sample.floor) == ("arithmetic", "SYNTHETIC", 0.9)
    assert (sample.probability, sample.tokens) == (1.0, 4)
    assert sample.body == CHAT
    assert sample.joules == pytest.approx(8.0)
    assert Sample.from_bytes(sample.to_bytes()) == sample


@pytest.mark.parametrize(
    ("settings", "headers"),
    [
        ({"sample": 0.0}, TAG),
        ({"judge": None, "judge_model": None}, TAG),
        ({"hold_out": 1.0}, TAG),
        ({"mode": "off"}, TAG),
        ({"caller_headers": ["opt-out"]}, {"x-sprout-opt-out": "1"}),
    ],
)
def test_what_no_policy_chose_is_not_sampled(tmp_path, settings, headers):
    assert sampled(tmp_path, headers, **settings)[1] == []


def test_in_shadow_mode_the_directive_that_would_be_chosen_is_the_candidate(tmp_path):
    _, (sample,) = sampled(tmp_path, mode="shadow")
    assert (sample.served, sample.candidate) == ("none", "very_brief")


def test_an_unknown_tag_belongs_to_the_untagged_requests(tmp_path):
    _, (sample,) = sampled(tmp_path, {"x-sprout-task": "poetry"})
    assert sample.task == ""


def levels(folder, **cell):
    (folder / "state").mkdir(exist_ok=True)
    setting = {"model": "made", "task": "arithmetic", "zone": "SYNTHETIC"} | cell
    write_levels(folder / "state", [CellSetting(**setting)])


def test_a_withdrawn_task_keeps_l0_and_its_candidate_is_judged(tmp_path):
    levels(tmp_path, level="l0")
    plan, (sample,) = sampled(tmp_path)
    assert (plan.record.directive, plan.record.reason) == ("none", "guard")
    assert (plan.record.probability, plan.record.lottery) == (1.0, True)
    assert plan.steered is None
    assert (sample.served, sample.candidate, sample.floor) == ("none", "very_brief", 0.9)


def test_another_task_of_the_model_is_not_withdrawn(tmp_path):
    levels(tmp_path, level="l0", task="poetry")
    assert sampled(tmp_path)[0].record.directive == "very_brief"


def test_a_cell_has_a_share_of_its_own(tmp_path):
    levels(tmp_path, share=0.0)
    assert sampled(tmp_path)[1] == []


def test_a_raised_price_serves_more_requests_without_a_directive(tmp_path):
    """At the price of a floor of .99 the policy of `priced_bundle` keeps nearly all at L0."""
    made.priced_bundle(tmp_path / "bundle", floor=0.91)
    own = hooks.make_hook(hooks.config(tmp_path, **JUDGED), send=Taken())
    tag = {"x-sprout-task": "faq"}

    def directives():
        chosen = []
        for n in range(60):
            body = {**CHAT, "messages": [{"role": "user", "content": f"Question {n}"}]}
            plan = asyncio.run(own.plan("/v1/chat/completions", body, tag))
            chosen.append((plan.record.directive, plan.record.floor_from, plan.sample.candidate))
        return chosen

    before = directives()
    assert {origin for _, origin, _ in before} == {"policy"}
    assert {candidate for *_, candidate in before} == {None}
    levels(tmp_path, task="faq", level="raised", floor=0.99)
    own.refresh()
    after = directives()
    assert {origin for _, origin, _ in after} == {"guard"}
    # The candidates are what would be chosen at the asked floor.
    assert [candidate for *_, candidate in after] == [directive for directive, *_ in before]
    kept = [sum(directive == "none" for directive, *_ in rows) for rows in (before, after)]
    assert kept[1] > 1.5 * kept[0]
    own.close()


def test_an_eased_price_is_that_of_a_lower_floor_and_only_of_the_floor_that_was_judged(tmp_path):
    made.priced_bundle(tmp_path / "bundle", floor=0.98)
    own = hooks.make_hook(hooks.config(tmp_path, **JUDGED), send=Taken())
    tag = {"x-sprout-task": "faq"}

    def decided(headers=tag):
        plan = asyncio.run(own.plan("/v1/chat/completions", CHAT, headers))
        own.refresh()
        return plan.record.floor, plan.record.floor_from, plan.record.price, plan.sample.floor

    before = decided()
    levels(tmp_path, task="faq", level="eased", floor=0.94, asked=0.98)
    own.refresh()
    after = decided()
    assert (before[:2], after[:2]) == ((0.98, "policy"), (0.94, "evidence"))
    assert after[2] < before[2]
    # The verdict is still about the floor that was asked for.
    assert after[3] == 0.98
    levels(tmp_path, task="faq", level="eased", floor=0.94, asked=0.97)
    own.refresh()
    assert decided()[:2] == (0.98, "policy")
    own.close()


def test_a_damaged_file_of_levels_keeps_the_last_ones(tmp_path):
    levels(tmp_path, level="l0")
    own = hook(tmp_path, **JUDGED, **FLOORED)
    (tmp_path / "state" / "guard.json").write_text("{")
    own.refresh()
    assert own.levels.of("made", "arithmetic", "SYNTHETIC").level == "l0"
    own.close()


def test_samples_reach_the_parent_and_are_dropped_without_it(tmp_path):
    _, (sample,) = sampled(tmp_path)
    taken = []
    sender = SocketSender(tmp_path)
    assert sender([sample]) == 0
    receiver = SocketReceiver(tmp_path, taken.append)
    large = Sample.from_bytes(sample.to_bytes())
    large.answer = "x" * 1_000_000
    assert sender([sample, large]) == 2
    assert waited(lambda: len(taken) == 2)
    assert taken == [sample, large]
    receiver.close()


def test_a_flood_of_samples_is_bounded(tmp_path):
    own = hook(tmp_path, send=Taken(), **JUDGED, **FLOORED)
    plan = asyncio.run(own.plan("/v1/chat/completions", json.dumps(CHAT).encode(), TAG))
    for _ in range(MOST_WAITING + 5):
        own.sampler.add(plan.sample, plan.record, "x")
    assert own.sampler.flush() == 5
    assert own.sampler.flush() == 0
    assert len(own.sampler.send) == MOST_WAITING
    own.close()


def test_what_a_proxy_puts_into_a_body_stays_behind(tmp_path):
    own = hook(tmp_path, send=Taken(), **JUDGED, **FLOORED)
    loop = {}
    loop["self"] = loop
    body = {**CHAT, "secret_fields": {"authorization": "Bearer x"}, "metadata": loop, "user": "ann"}
    plan = asyncio.run(own.plan("/v1/chat/completions", body, TAG))
    assert plan.sample.body == CHAT
    own.close()


def test_a_callers_floor_says_nothing_about_the_tasks(tmp_path):
    own = hook(tmp_path, send=Taken(), caller_headers=["task", "floor"], **JUDGED, **FLOORED)
    plan = asyncio.run(own.plan("/v1/chat/completions", CHAT, TAG | {"x-sprout-floor": "0.97"}))
    assert plan.record.floor == 0.97
    assert plan.sample.floor is None
    own.close()


def test_a_request_with_an_image_is_not_drawn_for_a_judge_of_texts(tmp_path):
    own = hook(tmp_path, send=Taken(), **JUDGED, **FLOORED)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
    for parts, drawn in (([{"type": "text", "text": "Hi"}], True), ([image], False)):
        body = {**CHAT, "messages": [{"role": "user", "content": parts}]}
        plan = asyncio.run(own.plan("/v1/chat/completions", body, TAG))
        assert (plan.sample is not None) == drawn
    own.close()


def test_without_a_judge_levels_of_an_earlier_time_do_not_hold(tmp_path):
    levels(tmp_path, level="l0")
    plan, _ = sampled(tmp_path, judge=None, judge_model=None)
    assert plan.record.directive == "very_brief"


def test_no_text_of_a_request_reaches_the_disk_or_the_log(folder, upstream):
    """A gateway with a judge: prompts and answers are in no file of its state folder."""
    made.bundle(folder / "bundle", extra={"floors": {"arithmetic": 0.9}})
    flags = ["--judge", upstream.url, "--judge-model", "judge", "--sample", "1"]
    with serving(upstream.url, folder, *flags, "--judge-delay", "0") as gateway:
        secret = {**CHAT, "messages": [{"role": "user", "content": "my-secret-question"}]}
        post(gateway.url, secret, TAG)
        assert waited(lambda: gateway.metric("sprout_judge_verdicts_total") > 0)
        assert b"my-secret-question" in b"".join(body for *_, body in upstream.received)
        for path in folder.rglob("*"):
            if path.is_file():
                assert b"my-secret-question" not in path.read_bytes(), path
    ledger = Ledger(f"sqlite:///{folder}/ledger.db")
    reasons = [reason for (reason,) in ledger.rows(["reason"])]
    assert sorted(reasons) == ["evaluation", "policy"]
    ledger.close()
