"""Bases of the commands that open a hook's ledger, in full or over a period."""

import time
from pathlib import Path

from pydantic import Field

from envs.errors import ConfigError
from experiments.settings import Settings
from serving.ledger.database import Ledger
from serving.savings.period import read_period


class OnLedger(Settings):
    """A command on the database of a hook."""

    ledger: str = Field(
        "sqlite:///runs/serve/ledger.db",
        description="URL of the hook's database, as given to `sprout serve`",
    )

    def open(self) -> Ledger:
        """Open the database.

        Raises:
            ConfigError: the SQLite file does not exist, because no hook has created it.
        """
        name = self.ledger.removeprefix("sqlite:///")
        if name != self.ledger and not Path(name).exists():
            raise ConfigError(
                f"--ledger {self.ledger}: there is no such file; give the URL of a hook's database"
            )
        return Ledger(self.ledger)


class OverPeriod(OnLedger):
    """A command that reads a period of the ledger."""

    since: str | None = Field(
        None, description="start: ISO 8601 (UTC if no zone), today or yesterday"
    )
    until: str | None = Field(None, description="end, exclusive; default: now")
    hours: float | None = Field(
        None, gt=0, description="length before the end, hours, instead of --since; default: 24"
    )
    json_path: Path | None = Field(None, alias="json", description="file for the result as JSON")

    def period(self) -> tuple[float, float]:
        """Return the period's start and end, Unix seconds.

        Raises:
            ConfigError: the flags give no period.
        """
        try:
            return read_period(self.since, self.until, self.hours, time.time())
        except ValueError as error:
            raise ConfigError(f"--since, --until, --hours: {error}") from None
