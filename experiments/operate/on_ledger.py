"""Base of the commands that open a hook's ledger."""

from pathlib import Path

from pydantic import Field

from envs.errors import ConfigError
from experiments.settings import Settings
from serving.ledger.database import Ledger


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
