"""The evaluator makes the answers that a comparison lacks, asks the judges, and books both."""

import json

import pytest

from serving.http.relay import Relay
from serving.middleware import SproutMiddleware
from serving.processes.gateway import Gateway
from serving.quality.answers import AnswerMaker, Served
from serving.quality.evaluator import CONTROL_SHARE, Evaluator
from serving.quality.judges.llm_judge import JudgeError
from serving.quality.judges.protocol import compared
from serving.settings.control import LocalControl
from tests import made
from tests.serving import hooks
from tests.serving.hooks import CHAT, hook, post
from tests.serving.quality.samples import FLOORED, JUDGED, TAG, Echo, Taken, sampled
from tests.serving.upstream import served


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


ROUTES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"prompt": "[INST] Hi [/INST]"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", list(ROUTES))
def test_answers_of_every_route_are_judged(tmp_path, upstream, route, stream):
    """Through the gateway's own relay, streamed or not, to a model that always says "Hello"."""
    taken = Taken()
    own = hook(tmp_path, send=taken, **JUDGED, **FLOORED)
    body = {"model": "made", **ROUTES[route], "stream": stream}
    with served(Gateway(own, Relay(upstream.url))) as url:
        status, *_ = post(url + route, body, TAG)
        assert status == 200
    own.sampler.flush()
    (sample,) = taken
    assert (sample.route, sample.answer, sample.served) == (route, "Hello", "very_brief")
    upstream.received.clear()
    records = []
    url_of, intensity = (lambda name: upstream.url), (lambda: 1.0)
    maker = AnswerMaker(own.config, url_of, intensity, own.control, records.append)
    (decider,) = own.policies.loaded
    known = Served(decider.bundle.catalogue, decider.rates)
    judge = ShortIsWorse()
    evaluator = Evaluator(maker, lambda name: known, lambda: 1.0, [judge], lambda pair: None)
    verdicts = [v for v in evaluator.evaluate(sample) if v.arm != "control"]
    assert [v.result for v in verdicts] == ["worse"]
    assert judge.seen[0] == ("Hello", "Hello")
    ((_, path, _, sent),) = upstream.received
    assert path == route
    assert json.loads(sent) == {"model": "made", **ROUTES[route]}
    # The answers have 4 tokens at 2 J each.
    assert [r.energy_joules for r in records] == [pytest.approx(8.0)]
    own.close()
