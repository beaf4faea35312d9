import pytest

from envs.errors import DataError
from envs.requests.directive import DEFAULT_CATALOGUE, Directive, read_catalogue

USER = {"role": "user", "content": "Hi"}


def test_the_first_directive_leaves_a_request_unchanged():
    body = {"model": "m", "messages": [USER], "max_tokens": 5}
    assert DEFAULT_CATALOGUE[0].body(body) == body


def test_a_directive_follows_the_callers_system_text():
    chat = [{"role": "system", "content": "You are a pirate."}, USER]
    steered = Directive("d", "Be brief.").messages(chat)
    assert steered == [{"role": "system", "content": "You are a pirate. Be brief."}, USER]
    assert chat[0]["content"] == "You are a pirate."


def test_a_chat_without_a_system_text_gets_one():
    steered = Directive("d", "Be brief.").messages([USER])
    assert steered == [{"role": "system", "content": "Be brief."}, USER]


def test_a_system_text_in_parts_gets_one_more_part():
    chat = [{"role": "system", "content": [{"type": "text", "text": "A"}]}, USER]
    steered = Directive("d", "B").messages(chat)
    assert steered[0]["content"][-1] == {"type": "text", "text": "B"}


@pytest.mark.parametrize(
    ("given", "field", "cap"),
    [
        ({}, "max_tokens", 9),
        ({"max_tokens": 4}, "max_tokens", 4),
        ({"max_completion_tokens": 100}, "max_completion_tokens", 9),
    ],
)
def test_a_cap_is_lowered_never_raised(given, field, cap):
    body = Directive("d", max_tokens=9).body({"messages": [USER], **given})
    assert body[field] == cap


def test_a_catalogue_is_read_from_yaml(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("- {name: none}\n- {name: short, text: Be short., max_tokens: 20}\n")
    catalogue = read_catalogue(path)
    assert catalogue.names == ("none", "short")
    assert catalogue[1].max_tokens == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {name: a, text: x}\n- {name: b}\n", "changes the request"),
        ("- {name: a}\n- {name: a}\n", "all different"),
        ("- {name: a}\n- {nam: b}\n", "directive 2"),
        ("- {name: a}\n- {name: b, max_tokens: 0}\n", "max_tokens 0"),
        ("name: a\n", "not a list"),
    ],
)
def test_a_fault_in_a_catalogue_is_named(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_catalogue(path)
