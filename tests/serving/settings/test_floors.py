"""Quality floors at run time: who may set them, and what they do to the next conversations."""

import asyncio
import os

import pytest

from envs.errors import ConfigError
from serving.hook.assembly import make_hook
from serving.settings.control import Control
from tests import made
from tests.serving.hooks import config

CALLER = ["task", "floor", "conversation"]


def hook(folder, **settings):
    made.priced_bundle(folder / "bundle")
    return make_hook(config(folder, **({"caller_headers": CALLER} | settings)))


def decide(hook, number, task="faq", **headers):
    """Return the record of a new conversation."""
    chat = {"model": "made", "messages": [{"role": "user", "content": f"What is {number}?"}]}
    named = {f"x-sprout-{name}": value for name, value in ({"task": task} | headers).items()}
    return asyncio.run(hook.plan("/v1/chat/completions", chat, named)).record


def l0_share(hook, task="faq", count=400, **headers):
    records = [decide(hook, n, task, **headers) for n in range(count)]
    return sum(record.directive == "none" for record in records) / count


def needed(task, floor):
    """Return the share of L0 at which the mean quality is the floor."""
    return (floor - made.KEPT[task]) / (1 - made.KEPT[task])


def control(hook, **changes):
    stored = hook.control.stored.model_dump() | changes
    hook.control.write(Control.model_validate(stored))
    hook.refresh()


def floor_by_start(folder):
    return hook(folder, floor="faq=0.98")


def floor_by_file(folder):
    path = folder / "floors.yaml"
    path.write_text("faq: 0.93")
    made_hook = hook(folder, floor=str(path))
    assert decide(made_hook, 0).floor == 0.93
    path.write_text("faq: 0.98")
    made_hook.refresh()
    return made_hook


def floor_by_operator(folder):
    made_hook = hook(folder, floor="0.93")
    control(made_hook, floors={"faq": 0.98})
    return made_hook


def floor_by_rule(folder):
    made_hook = hook(folder)
    rules = [{"name": "strict", "when": {"task": "faq"}, "floor": 0.98}]
    control(made_hook, rules=rules, floors={"faq": 0.92})
    return made_hook


@pytest.mark.parametrize(
    ("set_floor", "origin"),
    [
        (floor_by_start, "start"),
        (floor_by_file, "start"),
        (floor_by_operator, "operator"),
        (floor_by_rule, "rule"),
    ],
)
def test_a_floor_changes_the_price_and_so_the_next_conversations(tmp_path, set_floor, origin):
    plain = hook(tmp_path / "plain")
    (tmp_path / "set").mkdir()
    floored = set_floor(tmp_path / "set")
    before, after = decide(plain, 0), decide(floored, 0)
    assert (before.floor, before.floor_from) == (0.95, "policy")
    assert (after.floor, after.floor_from) == (0.98, origin)
    assert after.price > before.price
    assert l0_share(plain) == pytest.approx(needed("faq", 0.95), abs=0.08)
    assert l0_share(floored) == pytest.approx(needed("faq", 0.98), abs=0.08)
    # Another task keeps the floor of the policy, unless "*" is meant.
    assert decide(floored, 0, "legal").floor == (0.93 if set_floor is floor_by_operator else 0.95)


def test_a_caller_raises_a_floor_and_cannot_lower_it(tmp_path):
    made_hook = hook(tmp_path)
    raised, lowered = (decide(made_hook, 0, floor=floor) for floor in ("0.99", "0.5"))
    assert (raised.floor, raised.floor_from) == (0.99, "caller")
    assert (lowered.floor, lowered.floor_from) == (0.95, "policy")
    assert raised.price > lowered.price
    assert decide(made_hook, 0, floor="much").floor == 1.0
    assert l0_share(made_hook, floor="0.99") == pytest.approx(needed("faq", 0.99), abs=0.08)


def test_a_floor_beyond_the_front_leaves_requests_at_l0(tmp_path):
    made_hook = hook(tmp_path)
    assert l0_share(made_hook, floor="1", count=50) == 1.0


def test_a_lower_floor_saves_more(tmp_path):
    made_hook = hook(tmp_path)
    strict = l0_share(made_hook, "legal")
    control(made_hook, floors={"*": 0.8})
    assert l0_share(made_hook, "legal") == pytest.approx(needed("legal", 0.8), abs=0.08)
    assert needed("legal", 0.8) < strict - 0.2


def test_an_ongoing_conversation_keeps_its_directive_when_a_floor_changes(tmp_path):
    made_hook = hook(tmp_path)
    control(made_hook, floors={"*": 0.5})
    brief = [n for n in range(30) if decide(made_hook, n, "legal").directive == "very_brief"]
    control(made_hook, floors={"*": 1.0})
    assert len(brief) > 20
    for number in brief:
        chat = [
            {"role": "user", "content": f"What is {number}?"},
            {"role": "assistant", "content": "A number."},
            {"role": "user", "content": "And the next one?"},
        ]
        body, named = {"model": "made", "messages": chat}, {"x-sprout-task": "legal"}
        record = asyncio.run(made_hook.plan("/v1/chat/completions", body, named)).record
        assert (record.directive, record.reason) == ("very_brief", "sticky")


def test_a_file_that_is_wrong_or_gone_leaves_the_last_floors_in_force(tmp_path):
    path = tmp_path / "floors.yaml"
    path.write_text("faq: 0.98")
    made_hook = hook(tmp_path, floor=str(path))
    for content in ("faq: 1.5", "faq", "{faq: [", None):
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
            os.utime(path, ns=(1, hash(content) % 10**15))
        made_hook.refresh()
        assert decide(made_hook, 0).floor == 0.98


@pytest.mark.parametrize(
    ("floor", "problem"),
    [
        ("faqs=0.9", "nobody knows task 'faqs'; did you mean 'faq'"),
        ("faq=2", "faq is 2.0; give a ratio from 0 to 1"),
        ("faq=high", "faq is high; give a ratio"),
        ("1.5", "give a ratio from 0 to 1"),
        ("missing.yaml", "missing.yaml"),
    ],
)
def test_a_wrong_floor_is_refused_at_the_start(tmp_path, floor, problem):
    with pytest.raises(Exception, match=problem) as caught:
        hook(tmp_path, floor=floor)
    assert isinstance(caught.value, ConfigError) or "missing" in str(caught.value)


def test_nothing_is_explored_below_a_floor_that_someone_demands(tmp_path):
    made_hook = hook(tmp_path, explore=1.0)
    # An even draw from three directives, but for the caller who asks for all of L0's quality.
    assert l0_share(made_hook, count=300) == pytest.approx(1 / 3, abs=0.1)
    assert l0_share(made_hook, count=50, floor="1") == 1.0
