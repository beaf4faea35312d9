"""Times that a person gives for a period, as Unix seconds."""

from datetime import UTC, datetime, timedelta

_DAYS_AGO = {"today": 0, "yesterday": 1}


def read_time(text: str, now: float) -> float:
    """Return a time given as ISO 8601, or as "now", "today" or "yesterday".

    A day without a time means its start; a time without a zone is UTC.

    Args:
        now: Unix seconds.

    Raises:
        ValueError: the text is none of these.
    """
    word = text.strip().lower()
    if word == "now":
        return now
    if word in _DAYS_AGO:
        start = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return (start - timedelta(days=_DAYS_AGO[word])).timestamp()
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(
            f"{text!r} is no time; give ISO 8601, as 2026-03-01 or 2026-03-01T08:00+01:00, or now, "
            "today, yesterday"
        ) from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def read_period(
    since: str | None, until: str | None, hours: float | None, now: float
) -> tuple[float, float]:
    """Return start and end of a period, Unix seconds; the end does not belong to it.

    Args:
        since, until: see `read_time`; None means open.
        hours: length before the end, if `since` is not given; None means 24.
        now: Unix seconds; the end is never later.

    Raises:
        ValueError: a time is unreadable, or the period is empty.
    """
    if since is not None and hours is not None:
        raise ValueError("give since or hours, not both")
    end = now if until is None else min(now, read_time(until, now))
    start = end - 3600 * (24 if hours is None else hours)
    if since is not None:
        start = read_time(since, now)
    if not start < end:
        raise ValueError("the period is empty: since must be before until, and in the past")
    return start, end
