import pytest

from envs.errors import DataError
from envs.outcomes.limits import Limit, read_limits


def test_limits_are_read_by_task(tmp_path):
    path = tmp_path / "latency.yaml"
    path.write_text("faq: {mean: 2, p95: 8.5}\nproof: {p95: 30}\n")
    limits = read_limits(path, ["faq", "proof", "other"])
    assert limits == {"faq": Limit(2, 8.5), "proof": Limit(None, 30)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("faq: {median: 2}", "faq: "),
        ("faq: 3", "faq: 3"),
        ("faq: {mean: -1}", r"faq\.mean is -1"),
        ("faq: {p95: true}", r"faq\.p95 is True"),
        ("elsewhere: {mean: 1}", "unknown task 'elsewhere'"),
        ("- faq", "not a mapping"),
        ("{", "cannot be read"),
    ],
)
def test_a_fault_in_a_limit_is_named(tmp_path, text, message):
    path = tmp_path / "latency.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_limits(path, ["faq"])
