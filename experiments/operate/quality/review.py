"""`sprout review`: judge pairs of answers in the terminal, without knowing which one is L0's."""

import json
import os
import re
from typing import Any
from urllib.parse import quote

from pydantic import Field
from rich.console import Console
from rich.panel import Panel
from rich.prompt import Prompt
from rich.table import Table
from rich.text import Text

from envs.errors import ConfigError
from envs.http_client import Fetcher, FetchError
from experiments.console import table_console
from experiments.settings import Settings
from serving.http.admin import TOKEN_VARIABLE
from serving.http.quality_routes import REVIEW

_SECONDS = 10.0
# Control characters could move the cursor or restyle the terminal. Tabs and line ends may stay.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CHOICES = {"a": "A", "b": "B", "t": "tie"}


class Review(Settings):
    """Compare pairs of answers to sampled requests, and say which one is better.

    The answers stand side by side in an order drawn at random; one of them is L0's. People's
    verdicts tell how far the judge can be trusted. The pairs are in the gateway's memory, so the
    command talks to its admin port, with the token in SPROUT_ADMIN_TOKEN.
    """

    admin: str = Field(
        "http://127.0.0.1:8081", pattern="^https?://", description="URL of the admin port"
    )
    reviewer: str = Field(pattern=r"^[\w.@-]{1,100}$", description="your name, for the ledger")

    def cli_cmd(self) -> None:
        """Show pair after pair and send the verdicts, until there is none left or q is typed.

        Raises:
            ConfigError: the token is not set, or the admin port does not answer.
        """
        token = os.environ.get(TOKEN_VARIABLE)
        if not token:
            raise ConfigError(f"set {TOKEN_VARIABLE} to the token of the gateway's admin port")
        fetcher, console = Fetcher(_SECONDS), table_console(markup=False)
        headers = {"authorization": f"Bearer {token}"}
        url = self.admin.rstrip("/") + REVIEW
        done = 0
        try:
            while True:
                raw = fetcher.get(f"{url}?reviewer={quote(self.reviewer)}", headers)
                queue = json.loads(raw)
                if (review := queue["review"]) is None:
                    break
                _show(console, review, queue["waiting"])
                choice = Prompt.ask(
                    "Which one is better? a, b, t (tie), q (stop)",
                    choices=[*_CHOICES, "q"],
                    show_choices=False,
                    console=console,
                )
                if choice == "q":
                    break
                body = {"review_id": review["review_id"], "reviewer": self.reviewer}
                fetcher.post(url, body | {"verdict": _CHOICES[choice]}, headers)
                done += 1
        except FetchError as error:
            raise ConfigError(f"--admin {self.admin}: {error}") from None
        except EOFError:
            pass
        print(f"{done} pairs reviewed")


def _show(console: Console, review: dict[str, Any], waiting: int) -> None:
    """Print a request and both answers; texts are shown as they are, without styles."""
    talk = "\n".join(f"{m['role']}: {m['text']}" for m in review["request"])
    title = f"{review['task'] or 'untagged'}; {waiting} waiting"
    console.print(Panel(_plain(talk), title=Text(title)))
    table = Table.grid(expand=True, padding=(0, 1))
    for _ in review["answers"]:
        table.add_column(ratio=1)
    table.add_row(*(Panel(_plain(t), title=name) for name, t in review["answers"].items()))
    console.print(table)


def _plain(text: str) -> Text:
    return Text(_CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text))
