"""A cost that weighs grams, seconds and money, and where its prices in money come from."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from envs.errors import ConfigError, DataError
from envs.money import SHIPPED, Tariff, read_tariff
from envs.outcomes.objective import Objective, make_objective
from envs.outcomes.reward import reward_from_profile
from tests import made

TARIFF = Tariff("EUR", 0.36, 3.6, {"electricity": "a (2026)", "device": "b (2026)"})


@pytest.fixture
def profile(tmp_path):
    return made.profile(tmp_path, made.chats(10, {"faq": "What is {n}?"}), lambda r, d: 1.0)


def test_money_is_that_of_the_energy_and_of_the_devices_time():
    # 1 kWh at 0.36 and 100 s at 3.6 per hour; a PUE of 1.5 buys half as much energy again.
    energy, seconds = np.array([3.6e6]), np.array([100.0])
    assert TARIFF.cost(energy, seconds) == pytest.approx(0.36 + 0.1)
    assert TARIFF.cost(energy, seconds, pue=1.5) == pytest.approx(0.54 + 0.1)


def test_each_weighted_cost_is_its_share_of_the_mean_under_l0(profile):
    weights = {"grams": 2.0, "seconds": 1.0, "money": 1.0}
    reward = reward_from_profile(profile, 300.0, {"faq": 0.9})
    reward.objective = make_objective(weights, TARIFF, profile.outcomes)
    count = len(profile.requests)
    for action, share in ((0, 1.0), (1, 10 / 50), (2, 2 / 50)):
        chosen = profile.outcomes.select(np.arange(count))
        outcomes = replace(
            chosen, **{n: getattr(chosen, n)[:, action] for n in asdict(chosen) if n in ARRAYS}
        )
        terms = reward.terms(
            np.full(count, "faq"), outcomes, np.full(count, 300.0), np.ones(count, dtype=bool)
        )
        # Energy, latency and device time all are in proportion to the tokens.
        assert terms["footprint"] == pytest.approx(-0.5 * share)
        assert terms["seconds"] == pytest.approx(-0.25 * share)
        assert terms["money"] == pytest.approx(-0.25 * share)


ARRAYS = (
    *("prompt_tokens", "completion_tokens", "energy_joules", "latency_seconds"),
    *("device_seconds", "correct", "preference"),
)


def test_grams_alone_have_no_other_terms(profile):
    objective = make_objective({"grams": 3.0}, TARIFF, profile.outcomes)
    assert objective == Objective()


def test_an_objective_survives_a_manifest(profile):
    objective = make_objective({"grams": 1.0, "money": 1.0}, TARIFF, profile.outcomes)
    assert Objective.from_manifest(asdict(objective)) == objective


@pytest.mark.parametrize(
    ("weights", "tariff", "problem"),
    [
        ({"hope": 1.0}, None, "no cost 'hope'"),
        ({"grams": 0.0}, None, "not all 0"),
        ({"grams": -1.0}, None, "0 or more"),
        ({"money": 1.0}, None, "give the prices in money"),
        ({"money": 1.0}, Tariff("EUR", 0.0, 0.0, {}), "cost no money"),
    ],
)
def test_a_wrong_weighting_is_refused(profile, weights, tariff, problem):
    with pytest.raises(ConfigError, match=problem):
        make_objective(weights, tariff, profile.outcomes)


def test_seconds_cannot_be_weighed_if_none_were_measured(profile):
    profile.outcomes.latency_seconds[:] = 0
    with pytest.raises(ConfigError, match="seconds can have no weight"):
        make_objective({"seconds": 1.0}, None, profile.outcomes)


def test_the_shipped_prices_name_their_sources_and_dates():
    tariff = read_tariff()
    assert tariff.currency == "USD"
    for source in tariff.sources.values():
        assert source.startswith("https://")
        assert "20" in source.rpartition("(")[2]


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ("currency: USD", "exactly the entries"),
        (("currency: USD", "currency: dollars"), "ISO 4217"),
        (("per_kwh: 0.0861", "per_kwh: cheap"), "electricity.per_kwh is 'cheap'"),
        (("per_kwh: 0.0861", "per_kwh: -1"), "electricity.per_kwh is -1"),
        (("per_hour: 5.489", "per_day: 5.489"), "device is"),
        (("date: 2026-11-09", "date:"), "device.date is missing"),
    ],
)
def test_a_wrong_file_of_prices_is_refused_with_the_field(tmp_path, wrong, problem):
    path = tmp_path / "tariff.yaml"
    text = SHIPPED.read_text()
    path.write_text(wrong if isinstance(wrong, str) else text.replace(*wrong))
    with pytest.raises(DataError, match=problem):
        read_tariff(path)
