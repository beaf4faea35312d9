"""`sprout status`: the state of a gateway and of the replicas on its ledger."""

import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import Field

from envs.errors import ConfigError, SproutError
from envs.http_client import Fetcher, FetchError
from experiments.operate.on_ledger import OnLedger
from experiments.settings import write_json
from serving.http.readiness import PATH, lines
from serving.ledger.replica import AWAY_SECONDS

_SECONDS = 10.0


class Status(OnLedger):
    """Show the state of a gateway, its problems, and the replicas on its ledger."""

    gateway: str = Field("http://127.0.0.1:8080", description="URL of the gateway")
    json_path: Path | None = Field(None, alias="json", description="file for the state as JSON")

    def cli_cmd(self) -> None:
        """Ask the gateway and the database, and print their answers.

        Raises:
            ConfigError: neither of them answers.
        """
        gateway, gateway_problem = self._gateway()
        replicas, ledger_problem = self._replicas()
        if gateway is None and replicas is None:
            raise ConfigError(f"{gateway_problem}; {ledger_problem}")
        if gateway is None:
            print(f"gateway: {gateway_problem}")
        else:
            _show(gateway)
        if replicas is None:
            print(f"ledger: {ledger_problem}")
        for replica in replicas or ():
            away = time.time() - replica["seen"]
            state = f"away for {away:.0f} s" if away > AWAY_SECONDS else f"mode {replica['mode']}"
            off = f", kill switch: {', '.join(replica['off'])}" if replica["off"] else ""
            print(f"replica {replica['name']}: {state}{off}")
        write_json(self.json_path, {"schema": 1, "gateway": gateway, "replicas": replicas})

    def _gateway(self) -> tuple[dict[str, Any] | None, str]:
        if not self.gateway.startswith(("http://", "https://")):
            raise ConfigError(f"--gateway {self.gateway}: http:// is missing")
        try:
            return json.loads(Fetcher(_SECONDS).get(self.gateway.rstrip("/") + PATH)), ""
        except (FetchError, ValueError) as error:
            return None, f"--gateway {self.gateway}: no gateway answers ({error})"

    def _replicas(self) -> tuple[list[dict[str, Any]] | None, str]:
        try:
            with closing(self.open()) as ledger:
                return [replica.model_dump(mode="json") for replica in ledger.replicas()], ""
        except SproutError as error:
            return None, str(error)


def _show(state: dict[str, Any]) -> None:
    for line in lines(state):
        print(line)
    for problem in state["problems"]:
        print(f"PROBLEM: {problem}")
