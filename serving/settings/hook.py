"""The hook's settings, in whatever shape it runs."""

import secrets
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from envs.carbon.intensity import Kind
from envs.carbon.live.choose import SERVICES, SourceSettings
from envs.energy.attribution import Idle
from envs.energy.meters.choose import Kind as MeterKind
from envs.energy.meters.flags import MeterFlags
from envs.errors import ConfigError
from envs.plausible import check_intensity, check_mean_intensity
from serving.settings.control import Control
from serving.settings.rules import Mode, read_rules

# A reading older than this says little about now: grids swing within the day.
MAX_AGE_SECONDS = 6 * 3600.0
CallerHeader = Literal["opt-out", "task", "conversation", "floor"]


def _split(given: Any) -> Any:
    return [part.strip() for part in given.split(",")] if isinstance(given, str) else given


# In a variable or as a flag's value: separated by commas.
Listed = Annotated[list[str], NoDecode, BeforeValidator(_split)]


class HookConfig(MeterFlags):
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
    intensity: str | None = Field(
        None,
        description="CSV trace, or a live source: electricity-maps, watttime, uk, carbon-aware; "
        "default the synthetic day",
    )
    zone: str | None = Field(None, description="zone of the trace, or the source's name for it")
    intensity_mean: float | None = Field(
        None, ge=0, description="gCO2e/kWh of the zone's year: the last resort of a live source"
    )
    intensity_signal: Literal["average", "marginal"] = Field(
        "average", description="what a live source is to give"
    )
    intensity_scope: Literal["direct", "lifecycle"] = Field(
        "direct", description="what a live source is to give"
    )
    intensity_url: str | None = Field(
        None, pattern="^https?://", description="address of the live source; default its own"
    )
    intensity_max_age: float = Field(
        MAX_AGE_SECONDS, gt=0, description="s; older readings give way to the mean"
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
    coefficients: Path | None = Field(
        None, description="file of sprout calibrate: the server's joules by kind of work"
    )
    meter: MeterKind | Literal["none"] = Field(  # type: ignore[assignment]
        "auto",
        description="of the server's energy, split among its requests; auto: the best that "
        "measures on this machine, else none: requests keep their estimates",
    )
    idle: Idle = Field(
        "apart", description="idle power while requests are answered: apart, or shared by them"
    )
    idle_watts: float | None = Field(
        None, ge=0, description="default the coefficients', else as seen while nothing is asked"
    )
    pue: float = Field(1.0, ge=1, description="power usage effectiveness of the site")
    hardware: str | None = Field(
        None, description="device of the catalogue, for its embodied carbon; default SPROUT's A100"
    )
    devices: int = Field(1, ge=1, description="such devices")
    life_years: float = Field(5.0, gt=0, description="over which they are written off")
    reserved_share: float = Field(1.0, gt=0, le=1, description="of them, for this service")
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
    def live(self) -> SourceSettings | None:
        """The live source; None where the intensity is a trace's.

        Raises:
            ConfigError: its mean is missing, or absurd.
        """
        if self.intensity not in SERVICES:
            return None
        if self.intensity_mean is None:
            raise ConfigError(
                f"--intensity {self.intensity}: give the zone's yearly mean with --intensity-mean "
                "(gCO2e/kWh): it is used when the source has been away for long"
            )
        check_intensity(self.intensity_mean, "--intensity-mean")
        check_mean_intensity(self.intensity_mean, "--intensity-mean")
        if self.clock_start is not None:
            raise ConfigError("--clock-start: a live source knows the present only; give a trace")
        kind = Kind(self.intensity_signal, self.intensity_scope)
        return SourceSettings(self.intensity, self.zone, self.intensity_url, kind)

    @property
    def outlook(self) -> Path:
        """Where what a live source has said is kept."""
        return self.state / "intensity.json"

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
