"""`sprout mode`: show or change the operators' settings; the kill switch."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import Field

from envs.errors import ConfigError
from experiments.operate.kill import Kill
from experiments.operate.on_ledger import OnLedger
from experiments.settings import write_json
from serving.ledger.database import Ledger
from serving.ledger.known_names import known_names
from serving.settings.hook import CommaSeparated
from serving.settings.rules import Mode, unknown_tasks


class ModeCommand(OnLedger):
    """Show or change the mode of all workers and replicas; `--set off` is the kill switch.

    off: relay only; shadow: decide and record; canary: steer a share; on: steer all. A change
    takes effect within 2 s. The kill switch also works while the database does not, and only
    `--release-off` lifts it. Replicas elsewhere are then reached through their admin ports, with
    the token in SPROUT_ADMIN_TOKEN.
    """

    set: Mode | None = Field(None, description="new mode; default: show the settings")
    release_off: bool = Field(False, description="lift the kill switch that --set off engaged")
    canary: float | None = Field(
        None, ge=0, le=1, description="share of conversations that are steered in mode canary"
    )
    canary_tasks: CommaSeparated = Field(
        [], description="tasks whose requests are all steered in mode canary; none for no task"
    )
    hold_out: float | None = Field(
        None, ge=0, le=1, description="share of conversations kept at L0 (no directive)"
    )
    state: Path | None = Field(
        None,
        description="state folder of a replica on this machine; default: the SQLite ledger's "
        "folder, or runs/serve",
    )
    admin: CommaSeparated = Field(
        [], description="URLs of further replicas' admin ports, for the kill switch"
    )
    json_path: Path | None = Field(None, alias="json", description="file for the settings as JSON")

    def cli_cmd(self) -> None:
        """Change the settings if flags ask for it, and print them.

        Raises:
            ConfigError: the flags contradict each other.
            KillSwitchError: a replica did not get the kill switch's change.
        """
        flags = {
            "mode": self.set,
            "canary_ratio": self.canary,
            "canary_tasks": [] if self.canary_tasks == ["none"] else self.canary_tasks or None,
            "hold_out_ratio": self.hold_out,
        }
        changes = {name: value for name, value in flags.items() if value is not None}
        if self.release_off and self.set is not None:
            raise ConfigError("give --release-off or --set, not both")
        if self.set == "off" or self.release_off:
            changes.pop("mode", None)
            ledger, problem = self._ledger()
            with closing(Kill(ledger, self._folder(), self.admin, problem)) as kill:
                for line in kill.release() if self.release_off else kill.engage():
                    print(line)
        if changes or not (self.set == "off" or self.release_off):
            self._settings(changes)

    def _settings(self, changes: dict[str, Any]) -> None:
        with closing(self.open()) as ledger:
            if "canary_tasks" in changes:
                for line in unknown_tasks(changes["canary_tasks"], known_names(ledger).tasks):
                    print(f"--canary-tasks: {line}")
            control = ledger.set_control(**changes) if changes else ledger.control()
        settings = control.model_dump(
            mode="json", exclude={"salt", "kill", "started"}, exclude_none=True
        )
        settings["off"] = control.kill.active
        print(json.dumps(settings, indent=1))
        if control.kill.active:
            print(
                "the kill switch is engaged: requests are relayed unchanged, whatever the mode, "
                "until `sprout mode --release-off`"
            )
        write_json(self.json_path, settings)

    def _ledger(self) -> tuple[Ledger | None, str]:
        """Return the database, or None and the problem if there are other ways to the replicas."""
        try:
            return self.open(), ""
        except ConfigError as error:
            if self._folder() is None and not self.admin:
                raise ConfigError(
                    f"no gateway was reached ({error}); name one with --state FOLDER (its state "
                    "folder on this machine), --ledger URL, or --admin URL and the token in "
                    "SPROUT_ADMIN_TOKEN"
                ) from None
            return None, str(error)

    def _folder(self) -> Path | None:
        """Return the state folder of a replica on this machine, or None if there is none."""
        if self.state is not None:
            if not self.state.is_dir():
                raise ConfigError(f"--state {self.state}: there is no such folder")
            return self.state
        name = self.ledger.removeprefix("sqlite:///")
        folder = Path(name).parent if name != self.ledger else Path("runs/serve")
        return folder if folder.is_dir() else None


class Reload(OnLedger):
    """Load the bundles of all replicas again, and drop what they found about their models.

    A model that was no longer steered because of its answers is steered again.
    """

    def cli_cmd(self) -> None:
        """Ask the replicas through the database."""
        with closing(self.open()) as ledger:
            ledger.set_control(reloads=ledger.control().reloads + 1)
        print("all replicas load their bundles again within 2 s")
