"""The names that an operator's rules can speak of."""

from serving.ledger.database import Ledger, days_ago
from serving.settings.rules import KnownNames

# Names of requests from this time on are known, days.
_DAYS = 30.0


def known_names(ledger: Ledger) -> KnownNames:
    """Return the names of the policies on a ledger, and of its requests of the last 30 days."""
    policies = list(ledger.policies().values())
    since = days_ago(_DAYS)
    return KnownNames(
        frozenset(row["name"] for manifest in policies for row in manifest["catalogue"]),
        frozenset(task for manifest in policies for task in manifest["tasks"])
        | ledger.names("task", since),
        frozenset(manifest["model"] for manifest in policies) | ledger.names("model", since),
    )
