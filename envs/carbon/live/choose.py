"""Creation of the configured live source, with its secrets from the environment."""

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
    """Settings of a live source.

    Attributes:
        service: name of the service.
        zone: the service's own name for the zone; None if unset, which only "uk" accepts.
        url: base URL of the service; None means its public URL.
        kind: required kind of intensity; a service of another kind is refused.
    """

    service: Service
    zone: str | None
    url: str | None
    kind: Kind


def make_source(settings: SourceSettings) -> Source:
    """Create the live source for these settings.

    Raises:
        ConfigError: the zone, the URL or a secret is missing, or the service gives another kind
            of intensity.
    """
    if settings.kind.signal not in SIGNALS or settings.kind.scope not in SCOPES:
        raise ConfigError(
            f"intensity {settings.kind}: give --intensity-signal {' or '.join(SIGNALS)}, and "
            f"--intensity-scope {' or '.join(SCOPES)}"
        )
    source = _create(settings)
    if source.kind != settings.kind:
        raise ConfigError(
            f"--intensity {settings.service} gives {source.kind} intensity, not {settings.kind}; "
            f"accept it with --intensity-signal {source.kind.signal} "
            f"--intensity-scope {source.kind.scope}"
        )
    return source


def _create(settings: SourceSettings) -> Source:
    if settings.service == "uk":
        return CarbonIntensityUk(settings.zone or "GB", settings.url or uk.URL)
    if settings.zone is None:
        raise ConfigError(f"--intensity {settings.service}: name the zone with --zone")
    if settings.service == "electricity-maps":
        token = _secret(electricity_maps.TOKEN_VARIABLE)
        return ElectricityMaps(
            settings.zone, settings.kind.scope, token, settings.url or electricity_maps.URL
        )
    if settings.service == "watttime":
        user, password = _secret(watttime.USER_VARIABLE), _secret(watttime.PASSWORD_VARIABLE)
        return WattTime(settings.zone, user, password, settings.url or watttime.URL)
    if settings.url is None:
        raise ConfigError("--intensity carbon-aware: give the endpoint with --intensity-url")
    return CarbonAware(settings.zone, settings.kind, settings.url)


def _secret(variable: str) -> str:
    """Return a service's token, user or password from the environment; raise if it is not set."""
    secret = os.environ.get(variable, "").strip()
    if not secret:
        raise ConfigError(
            f"environment variable {variable} is unset or empty; set it as the service gave it"
        )
    return secret
