import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.llama2 import Llama2Env
from envs.requests.features import CONTEXT, Featurizer
from envs.requests.moment import Moment
from envs.requests.structure import STRUCTURE, Feature

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


def test_structure_counts_numbers_options_and_turns_and_tags_the_task():
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
    documented = {row[0]: tuple(row[1:]) for row in table if len(row) == 5}
    for feature in STRUCTURE + CONTEXT:
        low, high = f"{feature.low:g}", f"{feature.high:g}"
        assert documented[feature.name] == (feature.unit, low, high, feature.meaning)
    assert Featurizer([]).features == STRUCTURE + CONTEXT


class ConstantEnergies:
    """A text model that predicts the same relative energies for any text."""

    def __init__(self, *energies):
        names = ("none", "brief", "very_brief")
        self.features = [Feature(f"log_energy={name}", "ln(ratio)", -8, 4, "") for name in names]
        self._energies = np.log(np.array(energies, dtype=np.float32))

    def measure(self, reading):
        return self._energies


def observed(featurizer, *levels):
    part = featurizer.request([{"role": "user", "content": "Hi"}], "a")
    levels = np.array(levels, dtype=float)
    count = len(levels)
    places, times = np.full(count, 0.5), np.full(count, 3600.0)
    moment = Moment(np.zeros(count), levels, places, places, times)
    return featurizer.observe(np.tile(part, (count, 1)), moment)


@given(st.text(max_size=200), st.floats(0, 2000), st.floats(0, 86400), st.integers(0, 5))
def test_one_request_gives_the_same_observation_as_a_batch(text, level, time, in_flight):
    featurizer = Featurizer(["a"], ConstantEnergies(2.0, 0.5, 0.25))
    part = featurizer.request([{"role": "user", "content": text}], "a")
    moment = Moment(*(np.array([value]) for value in (in_flight, level, 0.5, 0.25, time)))
    one = featurizer.join_one(part, featurizer.context(moment)[0], level)
    assert np.array_equal(one, featurizer.observe(part[None], moment)[0])
    assert featurizer.names[featurizer.load] == "in_flight"
    assert bool(featurizer.steerable(one)) == bool(featurizer.steerable(one[None])[0])


def test_a_directives_spared_carbon_is_spared_energy_times_intensity():
    featurizer = Featurizer(["a"], ConstantEnergies(2.0, 0.5, 0.25))
    observations = observed(featurizer, 100.0, 300.0)
    assert featurizer.names[-2:] == ("spared=brief", "spared=very_brief")
    assert observations[:, -2:] == pytest.approx(np.array([[1.5, 1.75], [4.5, 5.25]]), rel=1e-5)


@given(st.floats(0, 2900), st.floats(0, 2900))
def test_an_observation_moved_to_another_intensity_equals_one_made_there(first, second):
    featurizer = Featurizer(["a"], ConstantEnergies(2.0, 0.5, 0.25))
    moved = featurizer.at_intensity(observed(featurizer, first), np.array([second]))
    assert moved == pytest.approx(observed(featurizer, second), rel=1e-6)
    assert (moved >= featurizer.low).all()
    assert (moved <= featurizer.high).all()


def test_the_text_and_carbon_groups_both_include_the_spared_components():
    groups = Featurizer(["a"], ConstantEnergies(2.0, 0.5, 0.25)).groups
    width = len(Featurizer(["a"], ConstantEnergies(2.0, 0.5, 0.25)).names)
    for group in ("text", "carbon"):
        assert set(groups[group]) >= {width - 2, width - 1}
    assert set(groups["spared"]) == {width - 2, width - 1}
    assert set(np.concatenate(list(groups.values()))) == set(range(width))
