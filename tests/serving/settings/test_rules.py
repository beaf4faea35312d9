"""Rules name what somebody knows; an unknown name is refused with a similar one."""

import pytest

from envs.errors import ConfigError
from serving.settings.rules import KnownNames, check_names, check_rules

KNOWN = KnownNames(
    frozenset(("none", "brief", "very_brief")),
    frozenset(("faq", "legal-eu", "legal-us")),
    frozenset(("llama-13b",)),
)


def check(rule, known=KNOWN):
    check_names(check_rules([{"name": "r", **rule}], "given"), known, "rules.yaml")


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
    with pytest.raises(ConfigError, match=message) as error:
        check(rule)
    assert str(error.value).startswith("rules rules.yaml: rule 'r', ")


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
    check(rule)


def test_nothing_is_checked_while_nothing_is_known():
    check({"force": "anything"}, KnownNames())
