"""Which requests are judged, what is made of them, and how the guard's levels reach requests."""

import asyncio
import json

import pytest

from serving.http.asgi import read_body, respond
from serving.ledger.database import Ledger
from serving.middleware import SproutMiddleware
from serving.quality.answers import AnswerMaker, Served
from serving.quality.evaluator import CONTROL_SHARE, Evaluator
from serving.quality.judges.llm_judge import JudgeError
from serving.quality.judges.protocol import compared
from serving.quality.sampling.sample import Sample
from serving.quality.sampling.sampler import MOST_WAITING, SocketReceiver, SocketSender
from serving.settings.control import LocalControl
from serving.settings.guard_levels import CellSetting, write_levels
from tests import made
from tests.serving import hooks
from tests.serving.hooks import CHAT, hook, post, waited
from tests.serving.launch import serving
from tests.serving.upstream import served

JUDGED = {"judge": "http://127.0.0.1:9", "judge_model": "judge", "sample": 1.0}
TAG = {"x-sprout-task": "arithmetic"}
FLOORED = {"extra": {"floors": {"arithmetic": 0.9}}}


class Taken(list):
    """Takes samples, as the parent process does."""

    def __call__(self, samples):
        self.extend(samples)
        return len(samples)


def sampled(folder, headers=TAG, **settings):
    """Send one chat through a hook that samples; return the plan and what was sampled."""
    taken = Taken()
    own = hook(folder, send=taken, **(JUDGED | FLOORED | settings))
    plan = asyncio.run(own.plan("/v1/chat/completions", json.dumps(CHAT).encode(), headers))
    answer = own.answer(plan)
    answer.start(200, [(b"content-type", b"application/json")])
    message = {"message": {"content": "Hello"}}
    body = {"choices": [message], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    answer.feed(json.dumps(body).encode(), False)
    own.finish(plan, answer, "completed")
    own.refresh()
    own.close()
    return plan, taken


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


class Echo:
    """A model that answers with the system text that it got, or "plain"."""

    def __init__(self):
        self.bodies = []
        self.status = 200

    async def __call__(self, scope, receive, send):
        body = json.loads(await read_body(receive, 1 << 20))
        self.bodies.append((dict(scope["headers"]), body))
        first = body["messages"][0]
        text = first["content"] if first["role"] == "system" else "plain"
        answer = {
            "choices": [{"message": {"content": text}}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 30},
        }
        await respond(send, self.status, json.dumps(answer).encode())


class ShortIsWorse:
    name, rubric = "llm:short", "r"

    def __init__(self):
        self.seen = []
        self.error = None

    def knows(self, messages):
        return "unknown" not in str(messages)

    def compare(self, messages, answer, l0):
        self.seen.append((answer, l0))
        if self.error is not None:
            raise self.error
        return compared("worse")


@pytest.fixture
def evaluator(tmp_path, monkeypatch):
    """An evaluator in front of an echoing model, with the records of the answers that it made."""
    monkeypatch.setenv("SPROUT_EVALUATOR_KEY", "upstream-key")
    bundle = made.bundle(tmp_path / "bundle")
    model = Echo()
    with served(model, lifespan="off") as url:
        records, judge = [], ShortIsWorse()
        config = hooks.config(tmp_path, joules_per_token=2.0, judge_priority=7)
        control = LocalControl(config.state, config.initial_control(), config.kill_switch())
        maker = AnswerMaker(config, lambda name: url, lambda: 360.0, control, records.append)
        known = Served(bundle.catalogue, None)
        shown = []
        made_evaluator = Evaluator(
            maker, lambda name: known, lambda: 360.0, [judge], shown.append, judge_joules=None
        )
        made_evaluator.model, made_evaluator.records = model, records
        made_evaluator.judge, made_evaluator.shown = judge, shown
        yield made_evaluator


def a_sample(tmp_path, **changed):
    _, (sample,) = sampled(tmp_path / "sampled")
    for name, value in changed.items():
        setattr(sample, name, value)
    return sample


def test_l0s_answer_is_made_and_compared_and_booked(tmp_path, evaluator):
    sample = a_sample(tmp_path)
    (verdict,) = evaluator.evaluate(sample)
    assert evaluator.judge.seen == [("Hello", "plain")]
    headers, body = evaluator.model.bodies[0]
    assert body == {**CHAT, "priority": 7}
    assert headers[b"authorization"] == b"Bearer upstream-key"
    assert (verdict.arm, verdict.directive, verdict.result) == ("served", "very_brief", "worse")
    assert (verdict.quality, verdict.l0_quality) == (0.0, 1.0)
    assert (verdict.tokens, verdict.l0_tokens) == (4, 30)
    assert verdict.evaluation_joules == pytest.approx(60.0)
    assert verdict.evaluation_grams == pytest.approx(60 / 3.6e6 * 360)
    # The judge's own energy is not known, and nothing stands in for it.
    assert verdict.judge_joules is None
    (record,) = evaluator.records
    assert (record.reason, record.directive, record.lottery) == ("evaluation", "none", False)
    assert record.energy_joules == pytest.approx(60.0)
    assert len(evaluator.shown) == 1


def test_a_candidate_and_l0_are_both_made_if_neither_was_served(tmp_path, evaluator):
    sample = a_sample(tmp_path, candidate="brief")
    verdicts = evaluator.evaluate(sample)
    assert [v.arm for v in verdicts if v.arm != "control"] == ["served", "candidate"]
    assert evaluator.judge.seen[:2] == [("Hello", "plain"), ("Always answer briefly.", "plain")]
    assert sorted(r.directive for r in evaluator.records) == ["brief", "none"]


def test_a_candidate_that_was_served_is_judged_once(tmp_path, evaluator):
    sample = a_sample(tmp_path, candidate="very_brief")
    verdicts = [v for v in evaluator.evaluate(sample) if v.arm != "control"]
    assert [(v.arm, v.result) for v in verdicts] == [("served", "worse"), ("candidate", "worse")]
    assert len(evaluator.judge.seen) == 1
    assert [v.evaluation_joules for v in verdicts] == [pytest.approx(60.0), 0.0]
    assert len({v.verdict_id for v in verdicts}) == 2


def test_at_a_raised_price_answers_without_a_directive_count_as_served(tmp_path, evaluator):
    sample = a_sample(tmp_path, served="none", candidate="brief", steered=True)
    verdicts = [v for v in evaluator.evaluate(sample) if v.arm != "control"]
    assert [(v.arm, v.judge, v.result) for v in verdicts] == [
        ("served", "same", "tie"),
        ("candidate", "llm:short", "worse"),
    ]
    sample.steered = False
    assert {v.arm for v in evaluator.evaluate(sample)} <= {"candidate", "control"}


def test_a_hook_on_the_way_leaves_the_evaluators_requests_alone(tmp_path, evaluator):
    """As inside vLLM, where the server of L0's answers is behind the same hook."""
    own = hook(tmp_path / "sampled")
    evaluator.answers._control = own.control
    model = evaluator.model
    with served(SproutMiddleware(model, own), lifespan="off") as url:
        evaluator.answers._url_of = lambda name: url
        (verdict,) = evaluator.evaluate(a_sample(tmp_path))
        assert verdict.result == "worse"
        assert [b["messages"][0]["role"] for _, b in model.bodies] == ["user"]
        assert len(hooks.records(own)) == 1
        # A mark that somebody makes up has no effect.
        post(url, CHAT, {"x-sprout-evaluation": "0" * 32})
        assert model.bodies[-1][1]["messages"][0]["role"] == "system"
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


def test_l0s_own_answer_is_a_tie_that_costs_nothing(tmp_path, evaluator):
    (verdict,) = evaluator.evaluate(a_sample(tmp_path, served="none"))
    assert (verdict.judge, verdict.result, verdict.quality) == ("same", "tie", 1.0)
    assert (verdict.evaluation_joules, evaluator.records) == (0.0, [])


def test_ties_that_need_no_judge_fail_as_often_as_judges_do(tmp_path, evaluator):
    """Else a judge that fails would make quality look better than it is."""
    evaluator.judge.error = JudgeError("away")
    steered, own = a_sample(tmp_path), a_sample(tmp_path, served="none")
    results = []
    for _ in range(100):
        (failed,) = evaluator.evaluate(steered)
        assert (failed.result, failed.judge, failed.quality) == ("failed", "llm:short", None)
        results += [verdict.result for verdict in evaluator.evaluate(own)]
    assert results[0] == "tie"
    assert results[-20:].count("failed") > 12
    evaluator.judge.error = None
    for _ in range(200):
        evaluator.evaluate(steered)
    assert [evaluator.evaluate(own)[0].result for _ in range(20)].count("tie") > 15


def test_a_request_that_no_judge_knows_costs_nothing(tmp_path, evaluator):
    body = {**CHAT, "messages": [{"role": "user", "content": "unknown"}]}
    assert evaluator.evaluate(a_sample(tmp_path, body=body)) == []
    assert evaluator.evaluate(a_sample(tmp_path, body=body, served="none")) == []
    assert evaluator.records == []


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


def test_a_stream_is_asked_for_in_one_piece(tmp_path, evaluator):
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}, "n": 3}
    evaluator.evaluate(a_sample(tmp_path, body=body))
    assert evaluator.model.bodies[0][1] == {**CHAT, "priority": 7}


@pytest.mark.parametrize("fault", ["status", "directive", "bundle"])
def test_an_answer_that_cannot_be_made_is_a_failed_verdict(tmp_path, evaluator, fault):
    sample = a_sample(tmp_path)
    if fault == "status":
        evaluator.model.status = 503
    elif fault == "directive":
        sample.served = "gone"
    else:
        evaluator._served = lambda model: None
    (verdict,) = evaluator.evaluate(sample)
    assert (verdict.result, verdict.quality, verdict.judge) == ("failed", None, "nobody")


def test_now_and_then_a_judge_is_shown_an_answer_to_another_request(
    tmp_path, evaluator, monkeypatch
):
    monkeypatch.setattr("random.random", lambda: CONTROL_SHARE / 2)
    evaluator.evaluate(a_sample(tmp_path))
    evaluator._other = "about something else"
    verdicts = evaluator.evaluate(a_sample(tmp_path))
    assert [(v.arm, v.heeded, v.result) for v in verdicts] == [
        ("served", True, "worse"),
        ("control", False, "worse"),
    ]
    assert evaluator.judge.seen[-1] == ("about something else", "plain")


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
