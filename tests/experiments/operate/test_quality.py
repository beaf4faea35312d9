"""`sprout quality` and `sprout review` against a gateway that judges."""

import io
import json
import sys

import pytest

from envs.errors import ConfigError
from experiments.cli import main
from experiments.operate.quality.review import Review, _plain
from tests import made
from tests.serving.hooks import CHAT, post, waited
from tests.serving.launch import TOKEN, serving
from tests.serving.quality.samples import Echo
from tests.serving.upstream import Upstream, served

TAG = {"x-sprout-task": "arithmetic"}


@pytest.fixture
def upstream():
    fake = Upstream()
    with served(fake) as fake.url:
        yield fake


@pytest.fixture
def judging(tmp_path, upstream):
    """A gateway in front of a fake model, with a judge that gives no verdict."""
    made.bundle(tmp_path / "bundle", extra={"floors": {"arithmetic": 0.9}})
    flags = ["--judge", upstream.url, "--judge-model", "judge", "--sample", "1"]
    with serving(upstream.url, tmp_path, *flags, "--judge-delay", "0") as gateway:
        gateway.url_of_ledger = f"sqlite:///{tmp_path}/ledger.db"
        yield gateway


def test_what_is_judged_can_be_read_from_the_ledger_and_the_admin_port(
    judging, capsys, tmp_path, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "200")
    post(judging.url, CHAT, TAG)
    assert waited(lambda: judging.metric("sprout_judge_verdicts_total") > 0)
    assert waited(lambda: json.loads(judging.ask("/v1/quality")[1])["judges"])
    main(["quality", "--ledger", judging.url_of_ledger, "--json", str(tmp_path / "q.json")])
    shown = capsys.readouterr().out
    assert "arithmetic" in shown
    assert "judging took" in shown
    served_cell = json.loads((tmp_path / "q.json").read_text())["cells"][0]
    assert (served_cell["task"], served_cell["level"]) == ("arithmetic", "asked")
    status, raw = judging.ask("/v1/quality?hours=1")
    assert status == 200
    quality = json.loads(raw)
    # The fake model's answers are all the same, so the judge is not asked.
    assert quality["judges"][0]["results"] == {"tie": 1}
    assert quality["evaluation"]["answers"] == 1
    assert judging.ask("/v1/quality?days=1")[0] == 422
    assert judging.metric("sprout_quality_samples_total") == 1


def test_a_ledger_without_verdicts_says_how_to_get_some(tmp_path, upstream, capsys):
    made.bundle(tmp_path / "bundle")
    with serving(upstream.url, tmp_path) as gateway:
        assert gateway.ask("/v1/review?reviewer=ann")[0] == 404
        main(["quality", "--ledger", f"sqlite:///{tmp_path}/ledger.db"])
    assert "--judge" in capsys.readouterr().out


def review(monkeypatch, answers, url):
    monkeypatch.setattr(sys, "stdin", io.StringIO(answers))
    monkeypatch.setenv("SPROUT_ADMIN_TOKEN", TOKEN)
    main(["review", "--reviewer", "ann", "--admin", url])


def test_a_person_judges_a_pair_in_the_terminal(tmp_path, monkeypatch, capsys):
    made.bundle(tmp_path / "bundle", extra={"floors": {"arithmetic": 0.9}})
    with served(Echo(), lifespan="off") as model:
        flags = ["--judge", model, "--judge-model", "judge", "--sample", "1", "--judge-delay", "0"]
        flags += ["--on-model-change", "warn"]
        with serving(model, tmp_path, *flags) as gateway:
            post(gateway.url, CHAT, TAG)
            queue = lambda: json.loads(gateway.ask("/v1/review?reviewer=ann")[1])  # noqa: E731
            assert waited(lambda: queue()["waiting"] == 1)
            review(monkeypatch, "q\n", gateway.admin)
            assert queue()["waiting"] == 1
            review(monkeypatch, "x\nt\n", gateway.admin)
            shown = capsys.readouterr().out
            assert "1 pairs reviewed" in shown
            assert "plain" in shown
            assert "Always answer very briefly." in shown
            assert queue()["waiting"] == 0
            judges = lambda: {  # noqa: E731
                row["judge"] for row in json.loads(gateway.ask("/v1/quality")[1])["judges"]
            }
            assert waited(lambda: judges() == {"people:ann", "llm:judge"})


def test_a_review_needs_the_token_and_a_gateway(monkeypatch):
    monkeypatch.delenv("SPROUT_ADMIN_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="SPROUT_ADMIN_TOKEN"):
        Review(reviewer="ann").cli_cmd()
    monkeypatch.setenv("SPROUT_ADMIN_TOKEN", "x")
    with pytest.raises(ConfigError, match="--admin"):
        Review(reviewer="ann", admin="http://127.0.0.1:9").cli_cmd()


def test_an_answer_cannot_restyle_the_terminal():
    assert "\x1b" not in _plain("\x1b[2Jgone\x07\r").plain
    assert _plain("[bold]a[/bold]\n\tb").plain == "[bold]a[/bold]\n\tb"
