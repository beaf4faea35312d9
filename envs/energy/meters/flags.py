"""Command-line flags that select an energy meter, shared by every command that reads one."""

from pydantic import BaseModel, Field

from envs.energy.meters.choose import DEFAULT_WATTS_PER_CORE, Kind, MeterChoice
from envs.energy.meters.remote import DCGM_ENERGY, RemoteSettings, Unit


class MeterFlags(BaseModel):
    """Flags of `envs.energy.meters.choose.MeterChoice`."""

    meter: Kind = Field(
        "auto", description="meter of the server's energy; auto: the best one on this machine"
    )
    meter_devices: str = Field(
        "", description="GPUs that NVML reads: indices or UUIDs, separated by commas"
    )
    meter_url: str | None = Field(
        None,
        pattern="^https?://",
        description="URL of a Prometheus server, or of an exporter's metrics page",
    )
    meter_query: str = Field(
        DCGM_ENERGY,
        description="PromQL query, or name of a metric on the page; all its values are summed",
    )
    meter_unit: Unit = Field(
        "mJ", description="unit of the query's values; a power is integrated over time"
    )
    meter_seconds: float = Field(
        15.0, gt=0, description="seconds between scrapes of the query's values"
    )
    watts_per_core: float = Field(
        DEFAULT_WATTS_PER_CORE,
        gt=0,
        description="stated power of a busy core in W, for the estimate by processor time",
    )

    def wanted(self) -> MeterChoice:
        """Return the flags as settings of a meter; a URL alone selects the remote meter."""
        remote = None
        if self.meter_url is not None:
            remote = RemoteSettings(
                url=self.meter_url,
                query=self.meter_query,
                unit=self.meter_unit,
                tick_seconds=self.meter_seconds,
            )
        kind = "remote" if self.meter == "auto" and remote is not None else self.meter
        devices = tuple(part.strip() for part in self.meter_devices.split(",") if part.strip())
        return MeterChoice(kind, devices, remote, self.watts_per_core)
