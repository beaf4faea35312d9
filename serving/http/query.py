"""Parameters of the admin routes' queries."""

import time
from urllib.parse import parse_qs

from serving.http.asgi import Scope
from serving.savings.period import read_period


def query_of(scope: Scope, names: frozenset[str]) -> dict[str, str]:
    """Return the parameters of a query; of a repeated one, the last value.

    Raises:
        ValueError: a parameter is not one of `names`.
    """
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    if unknown := set(query) - names:
        raise ValueError(f"query parameter {min(unknown)!r}: give {' or '.join(sorted(names))}")
    return {name: values[-1] for name, values in query.items()}


def period_of(scope: Scope) -> tuple[float, float]:
    """Return the start and the end of the query's period, Unix seconds.

    Raises:
        ValueError: the query names no period.
    """
    given = query_of(scope, frozenset(("since", "until", "hours")))
    hours = None
    if "hours" in given:
        try:
            hours = float(given["hours"])
        except ValueError:
            hours = -1.0
        if not 0 < hours <= 24 * 3660:
            raise ValueError(f"hours: give a number above 0 and at most {24 * 3660}")
    return read_period(given.get("since"), given.get("until"), hours, time.time())
