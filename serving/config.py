"""The hook's settings, in whatever shape it runs."""

import secrets
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field
from pydantic_settings import NoDecode

from envs.errors import ConfigError
from serving.control import Control
from serving.rules import Mode, read_rules

# A reading older than this says little about now: grids swing within the day.
MAX_AGE_SECONDS = 6 * 3600.0
CallerHeader = Literal["opt-out", "task", "conversation", "floor"]


def _split(given: Any) -> Any:
    return [part.strip() for part in given.split(",")] if isinstance(given, str) else given


# In a variable or as a flag's value: separated by commas.
Listed = Annotated[list[str], NoDecode, BeforeValidator(_split)]


class HookConfig(BaseModel):
    """What every shape of the hook takes: the gateway, the ASGI middleware, LiteLLM's callback."""

    policy: Listed = Field(
        min_length=1,
        description="policy bundle, a folder; several where each is for another model",
    )
    state: Path = Field(
        Path("runs/serve"), description="folder of this replica's journal and control file"
    )
    ledger: str | None = Field(
        None,
        description="database URL, e.g. postgresql+psycopg://user@host/db; default SQLite in "
        "the state folder",
    )
    intensity: Path | None = Field(None, description="CSV trace; default the synthetic day")
    zone: str | None = Field(None, description="zone of the trace")
    intensity_max_age: float = Field(
        MAX_AGE_SECONDS, gt=0, description="s; older readings count as the last day's lowest"
    )
    clock_start: str | None = Field(None, description="experiment: ISO time the clock starts at")
    clock_speed: float = Field(1.0, gt=0, description="experiment: clock seconds per second")
    mode: Mode = Field(
        "on", description="off, shadow, canary or on; at first start, later `sprout mode`"
    )
    canary: float = Field(0.05, ge=0, le=1, description="share of conversations, in that mode")
    canary_tasks: Listed = Field([], description="tasks all of whose requests are, too")
    hold_out: float = Field(0.05, ge=0, le=1, description="share of conversations kept at L0")
    rules: Path | None = Field(None, description="YAML of operator's rules; at first start")
    caller_headers: Annotated[list[CallerHeader], NoDecode, BeforeValidator(_split)] = Field(
        ["opt-out", "task", "conversation"], description="x-sprout-* headers obeyed; also floor"
    )
    tenant_header: str | None = Field(
        None, description="header that names the tenant; authorization is kept as a keyed hash"
    )
    deadline: float = Field(0.05, gt=0, description="s that a decision may take")
    decided_bytes: int = Field(1 << 20, ge=0, description="larger bodies pass undecided")
    estimates: bool = Field(True, description="joules and grams in a stream's final usage")
    ask_usage: bool = Field(
        False, description="ask upstream for a stream's usage (it must know stream_options)"
    )
    joules_per_token: float | None = Field(
        None, gt=0, description="of the served model; default the policy's training data"
    )
    pue: float = Field(1.0, ge=1, description="power usage effectiveness of the site")
    store_prompts: bool = Field(False, description="keep prompts and answers in the ledger")
    retention_days: float = Field(400.0, gt=0, description="records older than this are deleted")
    otlp: str | None = Field(
        None,
        pattern="^https?://",
        description="collector of OpenTelemetry spans, e.g. http://127.0.0.1:4318/v1/traces",
    )
    seed: int | None = Field(None, ge=0, description="of the lottery; default at random")

    @property
    def folders(self) -> list[Path]:
        """The bundles' folders."""
        return [Path(folder) for folder in self.policy]

    @property
    def ledger_url(self) -> str:
        """The database's URL."""
        return self.ledger or f"sqlite:///{(self.state / 'ledger.db').absolute()}"

    def initial_control(self) -> Control:
        """What holds until the database says otherwise.

        Raises:
            ConfigError: the rules are wrong.
        """
        rules = read_rules(self.rules) if self.rules is not None else ()
        salt = secrets.token_hex(16) if self.seed is None else f"{self.seed:032x}"[-32:]
        return Control(
            mode=self.mode,
            canary_ratio=self.canary,
            canary_tasks=tuple(self.canary_tasks),
            hold_out_ratio=self.hold_out,
            rules=rules,
            salt=salt,
        )

    def make_state(self) -> None:
        """Make the state folder.

        Raises:
            ConfigError: it cannot be made or written to.
        """
        try:
            self.state.mkdir(parents=True, exist_ok=True)
            probe = self.state / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(f"--state {self.state}: {error.strerror}; name another") from error
