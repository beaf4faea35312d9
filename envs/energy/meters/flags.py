"""Which meter to use, as settings: the same flags for every command that reads one."""

from pydantic import BaseModel, Field

from envs.energy.meters.choose import DEFAULT_WATTS_PER_CORE, Kind, MeterChoice
from envs.energy.meters.remote import DCGM_ENERGY, RemoteSettings, Unit


class MeterFlags(BaseModel):
    """Flags of `envs.energy.meters.choose.MeterChoice`."""

    meter: Kind = Field(
        "auto", description="of the server's energy; auto takes the best there is on this machine"
    )
    meter_devices: str = Field("", description="GPUs for NVML: indices or UUIDs, with commas")
    meter_url: str | None = Field(
        None, pattern="^https?://", description="of a Prometheus server or an exporter's page"
    )
    meter_query: str = Field(
        DCGM_ENERGY, description="PromQL, or a metric of the page; all its values are summed"
    )
    meter_unit: Unit = Field("mJ", description="of those values; a power is integrated")
    meter_seconds: float = Field(15.0, gt=0, description="between scrapes of those values")
    watts_per_core: float = Field(
        DEFAULT_WATTS_PER_CORE, gt=0, description="stated power of a busy core, for processor time"
    )

    def wanted(self) -> MeterChoice:
        """What they ask for."""
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
