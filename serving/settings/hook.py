"""The hook's settings, common to the gateway, the middleware and the LiteLLM callback."""

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
from envs.requests.directive import Place
from serving.settings.control import Control
from serving.settings.kill_switch import KillSwitch
from serving.settings.quality import QualityFlags
from serving.settings.rules import Mode, read_rules

# An older reading says little about the present, because carbon intensity varies within a day.
MAX_AGE_SECONDS = 6 * 3600.0
CallerHeader = Literal["opt-out", "task", "conversation", "floor"]


def _split(value: Any) -> Any:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple):
        return value
    texts = [part.strip() for text in value for part in str(text).split(",")]
    return [text for text in texts if text]


# Values are separated by commas in an environment variable or in a flag's value.
CommaSeparated = Annotated[list[str], NoDecode, BeforeValidator(_split)]


class HookConfig(QualityFlags, MeterFlags):
    """Settings of the hook in the gateway, the ASGI middleware and the LiteLLM callback."""

    policy: CommaSeparated = Field(
        min_length=1,
        description="folder of a policy bundle; several folders if each is for a different model",
    )
    state: Path = Field(
        Path("runs/serve"), description="folder for this replica's journal and control file"
    )
    off_file: Path | None = Field(
        None,
        description="file that engages the kill switch as soon as it exists, for example mounted "
        "by an orchestrator",
    )
    ledger: str | None = Field(
        None,
        description="database URL, e.g. postgresql+psycopg://user@host/db; default: SQLite in "
        "the state folder",
    )
    intensity: str | None = Field(
        None,
        description="CSV trace of carbon intensity, a live source (electricity-maps, watttime, uk, "
        "carbon-aware), or a constant number of gCO2e/kWh; default: a synthetic day",
    )
    zone: str | None = Field(
        None, description="grid zone, as the trace or the live source names it"
    )
    intensity_mean: float | None = Field(
        None,
        ge=0,
        description="yearly mean of the zone, gCO2e/kWh, used if a live source has no better value",
    )
    intensity_signal: Literal["average", "marginal"] = Field(
        "average", description="carbon-intensity signal to request from a live source"
    )
    intensity_scope: Literal["direct", "lifecycle"] = Field(
        "direct", description="emissions scope to request from a live source"
    )
    intensity_url: str | None = Field(
        None,
        pattern="^https?://",
        description="URL of the live source; default: its public address",
    )
    intensity_max_age: float = Field(
        MAX_AGE_SECONDS,
        gt=0,
        description="greatest age of a reading in seconds; an older one is replaced by the mean",
    )
    clock_start: str | None = Field(
        None, description="for experiments: ISO 8601 time that the clock starts at"
    )
    clock_speed: float = Field(1.0, gt=0, description="for experiments: clock seconds per second")
    mode: Mode = Field(
        "shadow",
        description="off, shadow (decide and record, change nothing), canary or on; used at the "
        "first start, later use `sprout mode`",
    )
    canary: float = Field(
        0.05, ge=0, le=1, description="share of conversations that are steered in mode canary"
    )
    canary_tasks: CommaSeparated = Field(
        [], description="tasks whose requests are all steered in mode canary"
    )
    hold_out: float = Field(
        0.05, ge=0, le=1, description="share of conversations kept at L0 (no directive)"
    )
    explore: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the steered conversations whose directive is drawn evenly from all, "
        "so that logs can judge other policies; it costs quality",
    )
    floor: str | None = Field(
        None,
        description="least quality relative to L0 in place of the policy's own: a ratio, "
        "TASK=RATIO,... or a YAML file of TASK: RATIO, which is read again when it changes; "
        "operators override it with `sprout floor`",
    )
    rules: Path | None = Field(
        None, description="YAML file of operators' rules, used at the first start"
    )
    caller_headers: Annotated[list[CallerHeader], NoDecode, BeforeValidator(_split)] = Field(
        ["opt-out", "task", "conversation"],
        description="x-sprout-* request headers that are obeyed; floor is possible too",
    )
    tenant_header: str | None = Field(
        None,
        description="request header that names the tenant; of authorization only a keyed hash "
        "is stored",
    )
    deadline: float = Field(0.05, gt=0, description="time limit for a decision, seconds")
    decided_bytes: int = Field(
        1 << 20, ge=0, description="request bodies of more bytes are relayed without a decision"
    )
    directive_place: Place | None = Field(
        None,
        description="where a directive's text stands: system, or user (after the last user "
        "message, for models without a system role); default: as in the bundle",
    )
    estimates: bool = Field(True, description="add joules and grams to a stream's final usage")
    ask_usage: bool = Field(
        False, description="ask the upstream for a stream's usage (it must support stream_options)"
    )
    joules_per_token: float | None = Field(
        None,
        gt=0,
        description="energy per generated token of the served model, J; default: as in the "
        "policy's training data",
    )
    coefficients: Path | None = Field(
        None, description="file of `sprout calibrate`: the server's joules by kind of work"
    )
    meter: MeterKind | Literal["none"] = Field(  # type: ignore[assignment]
        "auto",
        description="energy meter of the server, whose joules are split among the requests; auto: "
        "the best measuring meter of this machine; none: requests keep their estimates",
    )
    idle: Idle = Field(
        "apart",
        description="idle power while requests are answered: kept apart, or shared by the requests",
    )
    idle_watts: float | None = Field(
        None,
        ge=0,
        description="idle power of the server, W; default: as in --coefficients, else as measured "
        "without requests",
    )
    pue: float = Field(1.0, ge=1, description="power usage effectiveness of the site")
    hardware: str | None = Field(
        None,
        description="device of the hardware catalogue, for its embodied carbon; default: none, so "
        "that emissions are those of electricity alone",
    )
    devices: int = Field(1, ge=1, description="number of these devices")
    life_years: float = Field(
        5.0, gt=0, description="years over which their embodied carbon is spread"
    )
    reserved_share: float = Field(
        1.0, gt=0, le=1, description="share of the devices that is reserved for this service"
    )
    store_prompts: bool = Field(False, description="store prompts and answers in the ledger")
    on_model_change: Literal["shadow", "warn"] = Field(
        "shadow",
        description="what to do if the answers show that the model was replaced: shadow (do not "
        "steer it) or warn",
    )
    retention_days: float = Field(
        400.0, gt=0, description="age in days at which records are deleted"
    )
    otlp: str | None = Field(
        None,
        pattern="^https?://",
        description="URL of an OpenTelemetry collector, e.g. http://127.0.0.1:4318/v1/traces",
    )
    seed: int | None = Field(None, ge=0, description="seed of the lottery; default: random")

    def kill_switch(self, runtime: Path | None = None) -> KillSwitch:
        """Return this replica's kill switch.

        Args:
            runtime: a second folder that all processes of the replica share, if there is one.
        """
        return KillSwitch([self.state, *([runtime] if runtime else [])], self.off_file)

    @property
    def folders(self) -> list[Path]:
        """Folders of the policy bundles."""
        return [Path(folder) for folder in self.policy]

    @property
    def live(self) -> SourceSettings | None:
        """Settings of the live source, or None if the intensity comes from a trace.

        Raises:
            ConfigError: the yearly mean is missing or implausible, or --clock-start is given.
        """
        if self.intensity not in SERVICES:
            return None
        if self.intensity_mean is None:
            raise ConfigError(
                f"--intensity {self.intensity}: give the zone's yearly mean with --intensity-mean "
                "(gCO2e/kWh); it is used when the source has been unreachable for long"
            )
        check_intensity(self.intensity_mean, "--intensity-mean")
        check_mean_intensity(self.intensity_mean, "--intensity-mean")
        if self.clock_start is not None:
            raise ConfigError(
                "--clock-start: a live source only knows the present; give a CSV trace with "
                "--intensity, or leave out --clock-start"
            )
        kind = Kind(self.intensity_signal, self.intensity_scope)
        return SourceSettings(self.intensity, self.zone, self.intensity_url, kind)

    @property
    def outlook(self) -> Path:
        """Path of the cached intensity outlook."""
        return self.state / "intensity.json"

    @property
    def ledger_url(self) -> str:
        """URL of the ledger's database."""
        return self.ledger or f"sqlite:///{(self.state / 'ledger.db').absolute()}"

    def initial_control(self) -> Control:
        """Return the run-time settings that apply until the database has others.

        Raises:
            DataError: the rules file cannot be read.
            ConfigError: a rule is wrong.
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

    def create_state_folder(self) -> None:
        """Create the state folder.

        Raises:
            ConfigError: the folder cannot be created or written to.
        """
        try:
            self.state.mkdir(parents=True, exist_ok=True)
            probe = self.state / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"--state {self.state}: {error.strerror}; give a writable folder"
            ) from error
