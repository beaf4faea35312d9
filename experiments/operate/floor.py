"""`sprout floor`: show or change the operators' quality floors."""

import json
from contextlib import closing
from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg

from envs.outcomes.stated_floors import read_floors
from experiments.operate.on_ledger import OnLedger
from experiments.settings import write_json
from serving.ledger.known_names import known_names
from serving.settings.hook import CommaSeparated
from serving.settings.rules import check_tasks


class FloorCommand(OnLedger):
    """Show or change the quality floors of all workers and replicas, without a training.

    A floor is the least quality of a task relative to no directive. The policy's price of quality
    is looked up in its bundle, and new conversations follow within 2 s. `sprout frontier` says
    beforehand what a floor saves.
    """

    floors: CliPositionalArg[str] = Field(
        "",
        description="floors to set: a ratio for all tasks, TASK=RATIO,... or a YAML file; default: "
        "show the floors",
    )
    clear: CommaSeparated = Field(
        [], description='tasks whose floor is again that of the start or the policy; "*": the rest'
    )
    json_path: Path | None = Field(None, alias="json", description="file for the floors as JSON")

    def cli_cmd(self) -> None:
        """Change the floors if asked to, and print them."""
        changes = read_floors(self.floors, "floors") if self.floors else {}
        with closing(self.open()) as ledger:
            if changes:
                check_tasks(list(changes), known_names(ledger).tasks, "floors")
            control = ledger.control()
            if changes or self.clear:
                kept = {t: r for t, r in control.floors.items() if t not in self.clear}
                control = ledger.set_control(floors=kept | changes)
        print(json.dumps(control.floors, indent=1))
        if changes or self.clear:
            print("new conversations follow within 2 s")
        write_json(self.json_path, control.floors)
