import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.requests.projection import WordProjection, word_projection
from envs.requests.structure import HEAD_CHARACTERS, OWN_LENGTH, STRUCTURE, Feature, read_chat

FEATURES = (Feature("x", "ratio", -9, 9, "made"), Feature("y", "ratio", -9, 9, "made"))


def chat(text):
    return [{"role": "user", "content": text}]


def projection(**changed):
    rng = np.random.default_rng(0)
    made = {
        "vocabulary": ("green", "tea", "7"),
        "features": FEATURES,
        "idf": np.array([1.0, 2.0, 3.0], np.float32),
        "words": rng.normal(size=(3, 2)).astype(np.float32),
        "structure": rng.normal(size=(len(STRUCTURE), 2)).astype(np.float32),
        "bias": np.array([0.5, -0.5], np.float32),
    }
    return WordProjection(**(made | changed))


def test_a_projection_is_the_formula_of_its_docstring():
    made = projection()
    reading = read_chat(chat("Green tea, green hills?"))
    x = np.array([1.0, 2.0, 0.0]) / np.sqrt(5.0)
    s = np.array(reading.structure, dtype=np.float64)
    expected = made.bias + x @ made.words + s @ made.structure
    assert made.measure(reading) == pytest.approx(expected, rel=1e-5)


def test_unknown_words_leave_bias_and_structure():
    made = projection()
    reading = read_chat(chat("Nothing known here"))
    expected = made.bias + np.array(reading.structure) @ made.structure
    assert made.measure(reading) == pytest.approx(expected, rel=1e-5)


@given(st.lists(st.sampled_from(["green", "tea", "7", "sky"]), max_size=30))
def test_neither_repetition_nor_order_of_words_counts(words):
    made = projection(structure=np.zeros((len(STRUCTURE), 2), np.float32))
    once = made.measure(read_chat(chat(" ".join(sorted(set(words))))))
    assert made.measure(read_chat(chat(" ".join(words)))) == pytest.approx(once, abs=1e-6)


def test_stored_parts_make_the_same_projection():
    made = projection()
    again = word_projection(made.vocabulary, made.features, made.arrays())
    reading = read_chat(chat("tea 7"))
    assert np.array_equal(again.measure(reading), made.measure(reading))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("text.idf", np.zeros(2, np.float32)),
        ("text.words", np.zeros((3, 3), np.float32)),
        ("text.structure", np.zeros((1, 2), np.float32)),
        ("text.bias", None),
    ],
)
def test_a_part_that_does_not_fit_is_named(name, array):
    made = projection()
    parts = made.arrays() | {name: array}
    if array is None:
        del parts[name]
    with pytest.raises(ValueError, match=name):
        word_projection(made.vocabulary, made.features, parts)


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
def test_a_wish_for_a_length_is_seen(text):
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
def test_words_about_length_are_no_wish(text):
    assert read_chat(chat(text)).structure[OWN_LENGTH] == 0


def test_a_system_text_may_wish_for_a_length_too():
    messages = [{"role": "system", "content": "Answer in one sentence."}, *chat("Why tides?")]
    assert read_chat(messages).structure[OWN_LENGTH] == 1


def test_of_a_long_text_beginning_and_end_are_read():
    reading = read_chat(chat("begin " + "x" * 3 * HEAD_CHARACTERS + " end?"))
    assert "begin" in reading.words
    assert "end" in reading.words
    assert reading.structure[5] == 1
    whole = read_chat(chat("y" * 40_000)).structure[0]
    assert whole == pytest.approx(np.log1p(10_000))
