"""Rules name what somebody knows; an unknown name is refused with a similar one."""

import re

import pytest

from envs.errors import ConfigError, SproutError
from serving.settings.rules import KnownNames, check_names, check_rules, read_rules

KNOWN = KnownNames(
    frozenset(("none", "brief", "very_brief")),
    frozenset(("faq", "legal-eu", "legal-us")),
    frozenset(("llama-13b",)),
)


def refusal(rule, known=KNOWN, **settings):
    """Return the error text for one rule; None if the rule is taken."""
    rules = check_rules([{"name": "r", **rule}], "given")
    try:
        check_names(rules, known, "rules.yaml", **settings)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"force": "breif"}, "rule 'r', force: nobody knows 'breif'; did you mean 'brief'?"),
        ({"force": "short*"}, "known: brief, none, very_brief"),
        ({"when": {"task": "fac"}, "forbid": True}, r"did you mean 'faq'\? If callers will send"),
        ({"when": {"model": "llama-7b"}, "floor": 0.9}, r"did you mean 'llama-13b'\?"),
    ],
)
def test_a_name_that_nobody_knows_is_refused(rule, message):
    refused = refusal(rule)
    assert re.search(message, refused)
    assert refused.startswith("rules rules.yaml: rule 'r', ")


@pytest.mark.parametrize(
    "rule",
    [
        {"force": "very_brief"},
        {"when": {"task": "legal-*"}, "forbid": True},
        {"when": {"task": "new-*"}, "forbid": True},
        {"when": {"task": "faq", "model": "llama-*"}, "floor": 0.9},
    ],
)
def test_known_names_and_wildcards_are_taken(rule):
    assert refusal(rule) is None


def test_before_the_first_request_a_task_is_refused_only_if_it_looks_misspelt():
    def first(task):
        return refusal({"when": {"task": task}, "forbid": True}, first=True)

    assert first("steering") is None
    assert "did you mean 'legal-eu'" in first("leagl-eu")


def test_nothing_is_checked_while_nothing_is_known():
    assert refusal({"force": "anything"}, KnownNames()) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty; give a list, \\[\\] for no rules"),
        ("rules: []", "rules: give a list of rules"),
        ("- {name: a, when: {taks: x}, forbid: true}", "there is no 'taks'; give one of route, mo"),
        ("- {name: a, holdout: 1}", "there is no 'holdout'; give one of name, when, forbid"),
        ("- {name: a, forbid: yes}", "give true, or leave it out"),
        ("- {name: a", "line 2: "),
    ],
)
def test_a_wrong_file_is_one_line_that_says_what_to_give(tmp_path, text, message):
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(SproutError, match=message) as error:
        read_rules(path)
    assert len(str(error.value).splitlines()) == 1
