"""The hook inside another server's process watches quality too, if it knows the server."""

import asyncio
import json
import time

import pytest

from envs.errors import ConfigError
from serving.embedded import make_embedded_hook
from serving.http.readiness import Readiness
from serving.http.relay import Relay
from serving.ledger.database import Ledger
from serving.ledger.quality.tallies import QualityTallies
from serving.settings.guard_levels import CellSetting, write_levels
from tests import made
from tests.serving import hooks
from tests.serving.hooks import CHAT, waited
from tests.serving.quality.samples import Echo
from tests.serving.upstream import served


def test_answers_of_an_embedded_hook_are_judged(tmp_path):
    made.bundle(tmp_path / "bundle", extra={"floors": {"arithmetic": 0.9}})
    model = Echo()
    with served(model, lifespan="off") as url:
        settings = {"judge": url, "judge_model": "j", "judge_upstream": f"{url}/v1", "sample": 1.0}
        own = make_embedded_hook(hooks.config(tmp_path, judge_delay=0, **settings))
        headers = {"x-sprout-task": "arithmetic"}
        plan = asyncio.run(own.plan("/v1/chat/completions", json.dumps(CHAT).encode(), headers))
        answer = own.answer(plan)
        answer.start(200, [(b"content-type", b"application/json")])
        answer.feed(b'{"choices":[{"message":{"content":"Hello"}}]}', False)
        own.finish(plan, answer, "completed")
        ledger = Ledger(own.config.ledger_url)
        judges = lambda: QualityTallies(ledger).judges(0.0, time.time() + 1)  # noqa: E731
        assert waited(judges)
        # The judge echoes, which is no verdict.
        assert [tally[:4] for tally in judges()] == [("llm:j", judges()[0].rubric, "no_verdict", 1)]
        ledger.close()


def test_an_embedded_hook_must_know_the_server(tmp_path):
    made.bundle(tmp_path / "bundle")
    with pytest.raises(ConfigError, match="--judge-upstream"):
        make_embedded_hook(hooks.config(tmp_path, judge="http://127.0.0.1:9", judge_model="j"))


def test_a_moved_task_is_a_problem_on_readyz(tmp_path):
    own = hooks.hook(tmp_path, judge="http://127.0.0.1:9", judge_model="j")
    cell = {"model": "made", "task": "faq", "zone": "Z"}
    write_levels(
        tmp_path / "state",
        [
            CellSetting(**cell, level="l0"),
            CellSetting(**(cell | {"task": ""}), level="raised", floor=0.97),
            CellSetting(**(cell | {"task": "legal"}), level="eased", floor=0.9),
        ],
    )
    own.refresh()

    async def asked():
        relay = Relay("http://127.0.0.1:9")
        await relay.open()
        state = await Readiness(own, relay).report()
        await relay.close()
        return state

    report = asyncio.run(asked())
    problems = [p for p in report["problems"] if p.startswith("quality")]
    assert len(problems) == 2
    assert "quality of faq (made, Z) fell below its floor: kept at L0" in problems[0]
    assert "untagged requests" in problems[1]
    assert "priced for 0.97" in problems[1]
    assert [each["level"] for each in report["guard"]] == ["l0", "raised"]
    own.close()
