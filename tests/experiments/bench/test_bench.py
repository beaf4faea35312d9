import json

import pytest

from envs.requests.tasks import MODULES
from envs.requests.workload import generate_requests
from experiments.bench.directives import figures, table
from experiments.cli import main
from tests import made


def test_the_figures_of_the_directives_match_the_closed_form(tmp_path):
    # Short answers are wrong at difficulties above 2 and right at all others.
    profile = made.profile(
        tmp_path,
        generate_requests(4, seed=0, by_cell=True),
        lambda r, d: float(d == "none" or r.difficulty <= 2),
    )
    result = figures(profile, floor=1.0)
    assert result["best_fixed_mix"] == pytest.approx([1, 0, 0])
    assert result["tokens_best_fixed_mix"] == pytest.approx(50)
    for task, module in MODULES.items():
        assert result["best_choice"][task] == [2 if d <= 2 else 0 for d in module.DIFFICULTIES]
        easy_share = sum(d <= 2 for d in module.DIFFICULTIES) / len(module.DIFFICULTIES)
        assert result["ratio_by_fixed_directive"]["very_brief"][task] == pytest.approx(easy_share)
    easy_shares = [
        sum(d <= 2 for d in m.DIFFICULTIES) / len(m.DIFFICULTIES) for m in MODULES.values()
    ]
    expected = sum(2 * share + 50 * (1 - share) for share in easy_shares) / len(easy_shares)
    assert result["tokens_best_choice"] == pytest.approx(expected)
    assert "| arithmetic | 5 | 50.0 / 1.00 | 10.0 / 0.00 | 2.0 / 0.00 |" in table(profile, 4)


def test_the_guard_bench_prints_few_false_alarms_and_catches_large_falls_sooner(tmp_path):
    out = tmp_path / "guard.json"
    flags = ["--runs", "50", "--sampling", "0.02", "--horizon", "40000", "--json", str(out)]
    assert main(["bench", "guard", *flags]) == 0
    rows = json.loads(out.read_text())["rows"]
    at_floor = [row for row in rows if row["ratio"] == 0.95]
    assert len(at_floor) == 3
    assert all(row["share"] <= 0.2 for row in at_floor)
    falls = {
        (row["task"], row["good_requests"], row["ratio"]): row["median"] or float("inf")
        for row in rows
        if row["ratio"] != 0.95
    }
    for task in ("easy", "middling", "hard"):
        for good in (0, 10_000, 100_000):
            medians = [falls[task, good, ratio] for ratio in (0.5, 0.8, 0.9, 0.94)]
            assert medians == sorted(medians)
            assert medians[0] < 10_000
