import json
from itertools import product, takewhile

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from envs.requests.directive import DEFAULT_CATALOGUE, Directive
from experiments.llama.server import EMBEDDED
from serving.apis.api import opening
from serving.apis.fixed_formats import FILE
from serving.apis.routes import APIS

BRIEF = Directive("brief", "Be brief.")
# Template tokens between the caller's system text and the user's text.
CLOSING = 8
CHAT, COMPLETIONS, RESPONSES, MESSAGES = (
    APIS[f"/v1/{name}"] for name in ("chat/completions", "completions", "responses", "messages")
)
USER = {"role": "user", "content": "Hi"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,xyz"}}


def turns(*roles):
    return [{"role": role, "content": f"{role} {i}"} for i, role in enumerate(roles)]


ROLES = st.sampled_from(["system", "developer", "user", "assistant"])
CHATS = st.lists(ROLES, min_size=1, max_size=6).map(lambda roles: turns(*roles))


@given(CHATS)
def test_steering_adds_only_a_text_after_the_callers_system_text(chat):
    body = {"model": "m", "messages": chat, "n": 2, "logprobs": True, "stream": True}
    body_before = json.dumps(body)
    steered = CHAT.steer(body, BRIEF)
    assert json.dumps(body) == body_before
    assert {k: v for k, v in steered.items() if k != "messages"} == {
        k: v for k, v in body.items() if k != "messages"
    }
    steered_texts = [m["content"] for m in steered["messages"]]
    own_texts = [m["content"] for m in chat]
    assert "".join(steered_texts).replace(" Be brief.", "").replace("Be brief.", "") == "".join(
        own_texts
    )
    # The caller's own system texts stay the prefix, so the server's prefix cache still applies.
    leading = 0
    while leading < len(chat) and chat[leading]["role"] in ("system", "developer"):
        leading += 1
    prefix = "".join(own_texts[:leading])
    assert "".join(steered_texts).startswith(prefix)
    # All later turns are unchanged.
    assert steered["messages"][len(steered["messages"]) - len(chat) + leading :] == chat[leading:]


def test_a_prefix_cache_keeps_all_tokens_of_the_callers_own_system_text():
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(EMBEDDED)

    def tokens(chat):
        steered = [directive.messages(chat) for directive in DEFAULT_CATALOGUE]
        return [tokenizer.apply_chat_template(m, return_dict=False) for m in steered]

    def shared(first, second):
        return len(
            list(takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
        )

    system = {"role": "system", "content": "You are a careful assistant of the city library. " * 9}
    chats = [[system, {"role": "user", "content": text}] for text in ("What is 2 + 3?", "Where?")]
    # Tokens that the two requests share without a directive, including the CLOSING tokens.
    shared_unsteered = shared(tokens(chats[0])[0], tokens(chats[1])[0])
    assert shared_unsteered > 100
    for level, other_level in product(range(3), range(3)):
        shared_steered = shared(tokens(chats[0])[level], tokens(chats[1])[other_level])
        # Under the same directive, its text is shared as well.
        assert (
            shared_steered >= shared_unsteered - CLOSING
            if level != other_level
            else shared_steered >= shared_unsteered
        )


def test_content_parts_stay_parts_when_a_chat_is_steered():
    chat = [
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": [PICTURE, {"type": "text", "text": "What is it?"}]},
    ]
    steered = CHAT.steer({"messages": chat}, BRIEF)["messages"]
    assert steered[0]["content"][-1] == {"type": "text", "text": "Be brief."}
    assert steered[1] == chat[1]


@pytest.mark.parametrize(
    ("body", "field", "cap"),
    [
        ({}, "max_tokens", 50),
        ({"max_tokens": 20}, "max_tokens", 20),
        ({"max_tokens": 200}, "max_tokens", 50),
        ({"max_tokens": None}, "max_tokens", 50),
        ({"max_completion_tokens": 80}, "max_completion_tokens", 50),
    ],
)
def test_a_token_cap_is_never_raised(body, field, cap):
    capped = Directive("short", "Be brief.", 50)
    assert CHAT.steer({"messages": [USER], **body}, capped)[field] == cap


def test_a_response_is_steered_by_its_instructions_or_its_system_item():
    plain = RESPONSES.steer({"input": "Hi", "instructions": "Be kind."}, BRIEF)
    assert (plain["input"], plain["instructions"]) == ("Hi", "Be kind. Be brief.")
    assert RESPONSES.steer({"input": "Hi"}, BRIEF)["instructions"] == "Be brief."
    system = {"role": "system", "content": [{"type": "input_text", "text": "Be kind."}]}
    items = RESPONSES.steer({"input": [system, USER]}, BRIEF)
    assert "instructions" not in items
    assert items["input"][0]["content"][-1] == {"type": "input_text", "text": "Be brief."}
    capped = RESPONSES.steer({"input": "Hi", "max_output_tokens": 9}, Directive("c", "", 5))
    assert capped == {"input": "Hi", "max_output_tokens": 5}


@pytest.mark.parametrize(
    "change",
    [
        {"tools": [{"type": "web_search"}]},
        {"text": {"format": {"type": "json_schema"}}},
        {"prompt": {"id": "stored"}},
        {"input": [USER, {"type": "function_call_output", "call_id": "1", "output": "2"}]},
        {"input": []},
    ],
)
def test_responses_that_steering_could_break_are_not_safe(change):
    body = {"input": "Hi"}
    assert RESPONSES.safe(body)
    assert not RESPONSES.safe(body | change)


@pytest.mark.parametrize(
    ("prompt", "steered"),
    [
        ("[INST] Hi [/INST]", "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]"),
        (
            "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi [/INST] Yes </s><s>[INST] So? [/INST]",
            "<s>[INST] <<SYS>>\nBe kind. Be brief.\n<</SYS>>\n\nHi [/INST] Yes </s><s>[INST] So? "
            "[/INST]",
        ),
    ],
)
def test_a_llama_2_prompt_is_steered_in_its_system_text(prompt, steered):
    body = {"prompt": prompt}
    assert COMPLETIONS.safe(body)
    assert COMPLETIONS.steer(body, BRIEF)["prompt"] == steered


@pytest.mark.parametrize(
    "prompt", ["Once upon", ["[INST] a [/INST]"], [1, 2], "[INST] a [/INST] b"]
)
def test_prompts_without_a_complete_llama_2_template_are_not_safe(prompt):
    assert not COMPLETIONS.safe({"prompt": prompt})


def test_empty_tool_and_format_fields_do_not_make_a_chat_unsafe():
    assert CHAT.safe({"messages": [USER], "tools": [], "response_format": None})
    assert not CHAT.safe({"messages": [USER], "tools": [{}]})
    assert not CHAT.safe({"messages": [USER, {"role": "tool", "content": "3"}, USER]})


@given(CHATS, st.lists(ROLES, max_size=4))
def test_a_conversations_opening_is_the_same_in_every_turn(chat, more):
    chat = [*chat, USER]
    assert opening([*chat, *turns(*more)]) == opening(chat)


PROMPT = "<s>[INST] Hi [/INST]"
PLACED = Directive("brief", "Be brief.", place="user")
SYSTEM = {"role": "system", "content": "Be kind."}
ASKED_BACK = {"role": "assistant", "content": "?"}


@pytest.mark.parametrize(
    ("route", "body", "field", "steered"),
    [
        (
            "/v1/chat/completions",
            {"messages": [SYSTEM, USER, ASKED_BACK, USER]},
            "messages",
            [SYSTEM, USER, ASKED_BACK, {"role": "user", "content": "Hi\n\nBe brief."}],
        ),
        ("/v1/completions", {"prompt": PROMPT}, "prompt", "<s>[INST] Hi\n\nBe brief. [/INST]"),
        ("/v1/responses", {"input": "Hi"}, "input", "Hi\n\nBe brief."),
        (
            "/v1/responses",
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]},
            "input",
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "Hi"},
                        {"type": "input_text", "text": "Be brief."},
                    ],
                }
            ],
        ),
        (
            "/v1/messages",
            {"messages": [USER], "system": "Be kind."},
            "messages",
            [{"role": "user", "content": "Hi\n\nBe brief."}],
        ),
    ],
)
def test_a_directive_may_stand_in_the_last_user_message(route, body, field, steered):
    assert APIS[route].steer(body, PLACED) == body | {field: steered}


def test_anthropics_system_parts_keep_their_place_in_the_cache():
    part = {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}
    steered = MESSAGES.steer({"messages": [USER], "system": [part], "max_tokens": 9}, BRIEF)
    assert steered["system"] == [part, {"type": "text", "text": "Be brief."}]
    assert MESSAGES.steer({"messages": [USER]}, BRIEF)["system"] == "Be brief."
    assert MESSAGES.steer({"messages": [USER], "max_tokens": 9}, Directive("c", "", 5)) == {
        "messages": [USER],
        "max_tokens": 5,
    }


FIXED = [
    *({"guided_json": {}}, {"guided_regex": "a"}, {"regex": "a"}, {"ebnf": "a"}, {"grammar": "a"}),
    *({"structured_outputs": {}}, {"nvext": {"guided_json": {}}}, {"prompt_logprobs": 0}),
    *({"logit_bias": {"1": 0}}, {"response_format": {"type": "json_object"}}, {"tools": [1]}),
    *({"tool_choice": "required"}, {"modalities": ["audio"]}, {"json_schema": {}}),
    *({"add_generation_prompt": False}, {"continue_final_message": True}, {"echo": 1}),
    *({"chat_template_kwargs": {"tools": [1]}}, {"extra_body": {"guided_choice": ["a"]}}),
]
FREE = [
    *({"response_format": {"type": "text"}}, {"response_format": None}, {"tools": []}),
    *({"guided_json": None}, {"regex": ""}, {"prompt_logprobs": None}, {"echo": False}),
    *({"logit_bias": {}}, {"tool_choice": "auto"}, {"modalities": ["text"]}, {"stop": ["a"]}),
    *({"add_generation_prompt": True}, {"chat_template_kwargs": {"enable_thinking": False}}),
    *({"seed": 0}, {"logprobs": True}, {"stream_options": {"include_usage": True}}),
]


@pytest.mark.parametrize("fields", FIXED)
def test_a_fixed_format_is_never_steered(fields):
    assert not CHAT.safe({"messages": [USER], **fields})
    assert not MESSAGES.safe({"messages": [USER], **fields})
    assert not RESPONSES.safe({"input": "Hi", **fields})
    assert not COMPLETIONS.safe({"prompt": PROMPT, **fields})


@pytest.mark.parametrize("fields", FREE)
def test_a_field_without_effect_is_no_fixed_format(fields):
    assert CHAT.safe({"messages": [USER], **fields})
    assert MESSAGES.safe({"messages": [USER], **fields})
    assert RESPONSES.safe({"input": "Hi", **fields})
    assert COMPLETIONS.safe({"prompt": PROMPT, **fields})


def test_every_fixed_format_names_its_servers_and_its_source():
    rows = yaml.safe_load(FILE.read_text())
    names = [name for row in rows for name in row["fields"]]
    assert len(names) == len(set(names)) > 40
    for row in rows:
        assert set(row) <= {"fields", "servers", "source", "unset", "neutral"}
        assert row["servers"]
        assert row["source"].startswith("https://")
        assert row.get("unset", "empty") in ("empty", "null", "true")


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [USER, {"role": "assistant", "content": "Once"}]},
        {"messages": [USER], "output_config": {"format": {"type": "json_schema"}}},
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "1"}]}]},
    ],
)
def test_anthropics_continuations_formats_and_tool_turns_are_left_alone(body):
    assert not MESSAGES.safe(body)
