"""Feedback on an answer: only for whoever got it, once a source, and never lost after a 200."""

import json
import time
from types import SimpleNamespace

import pytest

from serving.apis.feedback import TOKEN_HEADER, TOKEN_SECONDS, feedback_token
from serving.http.relay import Relay
from serving.ledger.journal import Journal
from serving.ledger.quality.store import QualityStore
from serving.ledger.record import new_id
from serving.processes.gateway import Gateway
from tests import made
from tests.serving.hooks import CHAT, hook, post, waited
from tests.serving.launch import serving
from tests.serving.upstream import Upstream, served


@pytest.fixture(scope="module")
def upstream_url():
    with served(Upstream()) as url:
        yield url


@pytest.fixture(scope="module")
def gateway(upstream_url, tmp_path_factory):
    folder = tmp_path_factory.mktemp("feedback")
    made.bundle(folder / "bundle")
    with serving(upstream_url, folder) as served_gateway:
        yield served_gateway


def answered(gateway):
    """Return the decision and the token of a new answer."""
    headers = post(gateway.url, CHAT)[2]
    return {
        "decision_id": headers["x-sprout-decision-id"],
        "token": headers[TOKEN_HEADER],
    }


def give(gateway, body):
    status, raw, _ = post(gateway.url + "/v1/feedback", body)
    return status, json.loads(raw)


def stored(gateway, decision_id):
    rows = QualityStore(gateway.ledger).feedback()
    return [row for row in rows if row.decision_id == decision_id]


@pytest.mark.parametrize(
    ("said", "value"),
    [({"thumb": "up"}, 1.0), ({"thumb": "down"}, 0.0), ({"score": 0.25}, 0.25)],
)
def test_a_thumb_or_a_score_is_kept(gateway, said, value):
    answer = answered(gateway)
    assert give(gateway, answer | said) == (200, {"recorded": True})
    assert waited(lambda: stored(gateway, answer["decision_id"]))
    (row,) = stored(gateway, answer["decision_id"])
    assert (row.value, row.source, row.comment) == (value, "user", None)


def test_texts_are_kept_as_they_are(gateway):
    answer = answered(gateway)
    comment = "<script>alert(1)</script> \x1b[31m'; DROP TABLE feedback; --"
    status, _ = give(gateway, answer | {"comment": comment, "correction": "4"})
    assert status == 200
    assert waited(lambda: stored(gateway, answer["decision_id"]))
    (row,) = stored(gateway, answer["decision_id"])
    assert (row.comment, row.correction, row.value) == (comment, "4", None)


def test_a_second_opinion_of_one_source_takes_the_place_of_the_first(gateway):
    answer = answered(gateway)
    for thumb in ("up", "up", "down"):
        assert give(gateway, answer | {"thumb": thumb})[0] == 200
    assert waited(lambda: [r.value for r in stored(gateway, answer["decision_id"])] == [0.0])


def test_a_forged_token_is_refused(gateway):
    answer, other = answered(gateway), answered(gateway)
    for token in ("0" * 32, other["token"], "", "é", None):
        status, error = give(gateway, answer | {"thumb": "up", "token": token})
        assert status == 403
        assert answer["token"] not in json.dumps(error)
    unknown = {"decision_id": new_id(), "token": answer["token"], "thumb": "up"}
    assert give(gateway, unknown)[0] == 403


def test_an_old_token_is_refused(gateway):
    salt = gateway.ledger.control().salt
    old = f"{int((time.time() - TOKEN_SECONDS - 60) * 1000):012x}" + "0" * 20
    body = {"decision_id": old, "token": feedback_token(salt, old), "thumb": "up"}
    status, error = give(gateway, body)
    assert (status, "30 days" in json.dumps(error)) == (403, True)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({}, "thumb"),
        ({"thumb": "sideways"}, "thumb"),
        ({"score": 1.5}, "score"),
        ({"score": "0.5"}, "score"),
        ({"score": True}, "score"),
        ({"score": 0.5, "thumb": "up"}, "not both"),
        ({"comment": "x" * 20_000}, "comment"),
        ({"comment": "a\x00b"}, "comment"),
        ({"thumb": "up", "decision_id": "../../etc"}, "decision_id"),
        ({"thumb": "up", "colour": "red"}, "colour"),
    ],
)
def test_wrong_feedback_is_an_error_that_names_the_field(gateway, changes, field):
    status, error = give(gateway, answered(gateway) | changes)
    assert status == 422
    assert field in error["error"]["message"]


def test_a_body_that_is_too_long_or_no_json_is_refused(gateway):
    assert give(gateway, b"x" * 300_000)[0] == 413
    assert give(gateway, b"{")[0] == 422
    assert give(gateway, b"[" * 50_000)[0] == 422


def test_an_operator_needs_no_token_of_the_answer(gateway):
    answer = answered(gateway)
    body = {"decision_id": answer["decision_id"], "thumb": "down", "source": "support"}
    assert waited(lambda: gateway.ask("/v1/feedback", "POST", body)[0] == 200)
    assert [row.source for row in stored(gateway, answer["decision_id"])] == ["support"]
    assert gateway.ask("/v1/feedback", "POST", body, token=None)[0] == 401
    assert gateway.ask("/v1/feedback", "POST", body | {"decision_id": new_id()})[0] == 404


def test_an_answer_of_mode_off_has_no_token(gateway):
    gateway.ask("/v1/control", "PATCH", {"mode": "off"})
    assert waited(lambda: TOKEN_HEADER not in post(gateway.url, CHAT)[2])
    gateway.ask("/v1/control", "PATCH", {"release_off": True})
    assert waited(lambda: TOKEN_HEADER in post(gateway.url, CHAT)[2])


def test_feedback_is_not_acknowledged_where_it_cannot_be_kept(folder, upstream):
    own = hook(folder)
    with served(Gateway(own, Relay(upstream.url))) as url:
        gateway = SimpleNamespace(url=url)
        answer = answered(gateway)
        assert give(gateway, answer | {"thumb": "up"})[0] == 200
        own._completer._journal = Journal(own.config.state, full_bytes=0)
        status, error = give(gateway, answer | {"thumb": "down"})
        assert (status, error["error"]["type"]) == (503, "ledger_error")
        # Requests are still served.
        assert post(url, CHAT)[0] == 200
    own.close()
