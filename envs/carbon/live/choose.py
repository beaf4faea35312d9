"""The live source that is asked for, its secrets from the environment."""

import os
from dataclasses import dataclass
from typing import Literal, get_args

from envs.carbon.intensity import SCOPES, SIGNALS, Kind
from envs.carbon.live import electricity_maps, uk, watttime
from envs.carbon.live.carbon_aware import CarbonAware
from envs.carbon.live.electricity_maps import ElectricityMaps
from envs.carbon.live.source import Source
from envs.carbon.live.uk import CarbonIntensityUk
from envs.carbon.live.watttime import WattTime
from envs.errors import ConfigError

Service = Literal["electricity-maps", "watttime", "uk", "carbon-aware"]
SERVICES: tuple[Service, ...] = get_args(Service)


@dataclass(frozen=True)
class SourceSettings:
    """A live source.

    Attributes:
        zone: the service's own name for it.
        url: its address; default its public one.
        kind: of the figures; a service that gives another is refused.
    """

    service: Service
    zone: str | None
    url: str | None
    kind: Kind


def make_source(asked: SourceSettings) -> Source:
    """The source.

    Raises:
        ConfigError: a zone, an address or a secret is missing, or the service gives no such
            kind of figure.
    """
    if asked.kind.signal not in SIGNALS or asked.kind.scope not in SCOPES:
        raise ConfigError(f"intensity {asked.kind}: one of {SIGNALS} and one of {SCOPES}")
    source = _made(asked)
    if source.kind != asked.kind:
        raise ConfigError(
            f"--intensity {asked.service} gives {source.kind} intensity, not {asked.kind}; say so "
            f"with --intensity-signal {source.kind.signal} --intensity-scope {source.kind.scope}"
        )
    return source


def _made(asked: SourceSettings) -> Source:
    if asked.service == "uk":
        return CarbonIntensityUk(asked.zone or "GB", asked.url or uk.URL)
    if asked.zone is None:
        raise ConfigError(f"--intensity {asked.service}: name the zone with --zone")
    if asked.service == "electricity-maps":
        token = _secret(electricity_maps.TOKEN_VARIABLE)
        return ElectricityMaps(
            asked.zone, asked.kind.scope, token, asked.url or electricity_maps.URL
        )
    if asked.service == "watttime":
        user, password = _secret(watttime.USER_VARIABLE), _secret(watttime.PASSWORD_VARIABLE)
        return WattTime(asked.zone, user, password, asked.url or watttime.URL)
    if asked.url is None:
        raise ConfigError("--intensity carbon-aware: give the endpoint with --intensity-url")
    return CarbonAware(asked.zone, asked.kind, asked.url)


def _secret(variable: str) -> str:
    found = os.environ.get(variable, "").strip()
    if not found:
        raise ConfigError(f"set the environment variable {variable}")
    return found
