from datetime import UTC, datetime

import pytest

from serving.savings.period import read_period, read_time

NOW = datetime(2026, 3, 10, 15, 30, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", datetime(2026, 3, 10, 15, 30, tzinfo=UTC)),
        ("today", datetime(2026, 3, 10, tzinfo=UTC)),
        ("Yesterday", datetime(2026, 3, 9, tzinfo=UTC)),
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01T08:00+02:00", datetime(2026, 3, 1, 6, tzinfo=UTC)),
        ("2026-03-01 08:00", datetime(2026, 3, 1, 8, tzinfo=UTC)),
    ],
)
def test_times_are_read_as_utc_unless_they_have_a_zone(text, expected):
    assert read_time(text, NOW) == expected.timestamp()


def test_a_period_ends_now_at_the_latest():
    assert read_period(None, None, None, NOW) == (NOW - 86400, NOW)
    assert read_period(None, "2027-01-01", 2, NOW) == (NOW - 7200, NOW)
    day = datetime(2026, 3, 9, tzinfo=UTC).timestamp()
    assert read_period("yesterday", "today", None, NOW) == (day, day + 86400)


@pytest.mark.parametrize(
    "period", [("today", "yesterday", None), ("2027-01-01", None, None), ("today", None, 3.0)]
)
def test_an_empty_or_doubtful_period_is_refused(period):
    with pytest.raises(ValueError, match="since"):
        read_period(*period, NOW)
