import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.requests.projection import WordProjection, word_projection
from envs.requests.structure import HEAD_CHARACTERS, OWN_LENGTH, STRUCTURE, Feature, read_chat

FEATURES = (Feature("x", "ratio", -9, 9, "made"), Feature("y", "ratio", -9, 9, "made"))


def chat(text):
    return [{"role": "user", "content": text}]


def projection(**changes):
    rng = np.random.default_rng(0)
    parts = {
        "vocabulary": ("green", "tea", "7"),
        "features": FEATURES,
        "idf": np.array([1.0, 2.0, 3.0], np.float32),
        "words": rng.normal(size=(3, 2)).astype(np.float32),
        "structure": rng.normal(size=(len(STRUCTURE), 2)).astype(np.float32),
        "bias": np.array([0.5, -0.5], np.float32),
    }
    return WordProjection(**(parts | changes))


def test_a_projection_follows_the_formula_of_its_docstring():
    projector = projection()
    reading = read_chat(chat("Green tea, green hills?"))
    x = np.array([1.0, 2.0, 0.0]) / np.sqrt(5.0)
    s = np.array(reading.structure, dtype=np.float64)
    expected = projector.bias + x @ projector.words + s @ projector.structure
    assert projector.measure(reading) == pytest.approx(expected, rel=1e-5)


def test_a_text_of_unknown_words_gets_bias_and_structure_alone():
    projector = projection()
    reading = read_chat(chat("Nothing known here"))
    expected = projector.bias + np.array(reading.structure) @ projector.structure
    assert projector.measure(reading) == pytest.approx(expected, rel=1e-5)


@given(st.lists(st.sampled_from(["green", "tea", "7", "sky"]), max_size=30))
def test_repeating_or_reordering_words_changes_nothing(words):
    projector = projection(structure=np.zeros((len(STRUCTURE), 2), np.float32))
    once = projector.measure(read_chat(chat(" ".join(sorted(set(words))))))
    assert projector.measure(read_chat(chat(" ".join(words)))) == pytest.approx(once, abs=1e-6)


def test_stored_parts_make_the_same_projection():
    projector = projection()
    restored = word_projection(projector.vocabulary, projector.features, projector.arrays())
    reading = read_chat(chat("tea 7"))
    assert np.array_equal(restored.measure(reading), projector.measure(reading))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("text.idf", np.zeros(2, np.float32)),
        ("text.words", np.zeros((3, 3), np.float32)),
        ("text.structure", np.zeros((1, 2), np.float32)),
        ("text.bias", None),
    ],
)
def test_a_part_that_does_not_fit_is_named_in_the_error(name, array):
    projector = projection()
    parts = projector.arrays() | {name: array}
    if array is None:
        del parts[name]
    with pytest.raises(ValueError, match=name):
        word_projection(projector.vocabulary, projector.features, parts)


@pytest.mark.parametrize(
    "text",
    [
        "Explain tides in 50 words or less.",
        "Describe what a web developer does in three sentences.",
        "Write a five sentence story about a king.",
        "Be concise. Why is the sky blue?",
        "Summarize it in one word: coding is fun",
        "Give a detailed explanation of tides.",
        "Explain briefly why it rains.",
    ],
)
def test_a_request_for_a_length_is_detected(text):
    assert read_chat(chat(text)).structure[OWN_LENGTH] == 1


@pytest.mark.parametrize(
    "text",
    [
        "Carl types at a speed of 50 words per minute. How long for 500?",
        "Before returning, Hakim briefly perused the nails. Is that a fact?",
        "Find the definition of a word: frugal",
        "Each of 12 pages holds 2 photos. How many photos?",
        "The wait is expected to be short. True?",
        "Rewrite the sentence in the passive.",
    ],
)
def test_words_about_length_alone_are_no_request_for_a_length(text):
    assert read_chat(chat(text)).structure[OWN_LENGTH] == 0


def test_a_request_for_a_length_in_the_system_text_is_detected():
    messages = [{"role": "system", "content": "Answer in one sentence."}, *chat("Why tides?")]
    assert read_chat(messages).structure[OWN_LENGTH] == 1


def test_the_beginning_and_the_end_of_a_long_text_are_read():
    reading = read_chat(chat("begin " + "x" * 3 * HEAD_CHARACTERS + " end?"))
    assert "begin" in reading.words
    assert "end" in reading.words
    assert reading.structure[5] == 1
    log_tokens = read_chat(chat("y" * 40_000)).structure[0]
    assert log_tokens == pytest.approx(np.log1p(10_000))
