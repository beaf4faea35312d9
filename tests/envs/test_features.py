import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from envs.features import CONTEXT, Featurizer
from envs.llama2 import Llama2Env
from envs.structure import STRUCTURE

FEATURIZER = Featurizer(["a", "b"])


def at(part, name):
    return part[FEATURIZER.names.index(name)]


@given(st.text(max_size=2000), st.sampled_from(["a", "b", "c", None]))
def test_any_text_gives_an_observation_within_its_bounds(text, task):
    part = FEATURIZER.request([{"role": "user", "content": text}], task)
    assert part.dtype == np.float32
    assert np.isfinite(part).all()
    assert (part >= FEATURIZER.low[: len(part)]).all()
    assert (part <= FEATURIZER.high[: len(part)]).all()


def test_structure_is_what_it_says():
    chat = [
        {"role": "system", "content": "Count 1 2 3."},
        {"role": "user", "content": "How many of 7 and 12? (A) one (B) two"},
    ]
    part = FEATURIZER.request(chat, "b")
    assert at(part, "numbers") == 2
    assert at(part, "options") == 2
    assert at(part, "quantity") == 1
    assert at(part, "system") == 1
    assert at(part, "turns") == 2
    assert (at(part, "task=a"), at(part, "task=b")) == (0, 1)


def test_an_unknown_task_has_no_tag():
    part = FEATURIZER.request([{"role": "user", "content": "Hi"}], "elsewhere")
    assert at(part, "task=a") == at(part, "task=b") == 0


def test_the_environments_docstring_is_its_specification():
    table = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in (Llama2Env.__doc__ or "").splitlines()
        if line.strip().startswith("|")
    ]
    told = {row[0]: tuple(row[1:]) for row in table if len(row) == 5}
    for feature in STRUCTURE + CONTEXT:
        low, high = f"{feature.low:g}", f"{feature.high:g}"
        assert told[feature.name] == (feature.unit, low, high, feature.meaning)
    assert Featurizer([]).features == STRUCTURE + CONTEXT
