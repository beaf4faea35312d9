"""Settings of `sprout serve` beyond the hook's: addresses, upstreams, TLS."""

import ssl
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pydantic import Field

from envs.errors import ConfigError
from serving.settings.hook import CommaSeparated, HookConfig

LogFormat = Literal["plain", "json"]


class GatewayConfig(HookConfig):
    """Settings of `sprout serve`."""

    upstream: CommaSeparated = Field(
        min_length=1,
        description="URL of the LLM server, e.g. http://127.0.0.1:8000; more servers as MODEL=URL",
    )
    host: str = Field("127.0.0.1", description="address that the gateway listens on")
    port: int = Field(
        8080, ge=0, le=65535, description="port that the gateway listens on; 0: any free port"
    )
    admin_host: str = Field("127.0.0.1", description="address of the admin port")
    admin_port: int = Field(
        8081, ge=0, le=65535, description="port of metrics and settings; 0: any free port"
    )
    workers: int = Field(1, ge=1, le=256, description="number of worker processes")
    routed_bytes: int = Field(
        64 << 20,
        ge=0,
        description="with several upstreams, the greatest request body in bytes: the gateway reads "
        "all of it to find the model",
    )
    log_format: LogFormat = Field("plain", description="format of the log: plain, or json")
    drain_seconds: int = Field(
        120, ge=0, description="seconds that requests have to finish at shutdown"
    )
    upstream_ca: Path | None = Field(
        None,
        description="PEM file of authorities for https upstreams; default: the system's",
    )
    upstream_cert: Path | None = Field(
        None, description="PEM file of the client certificate and key for https upstreams"
    )

    @property
    def upstreams(self) -> tuple[str, dict[str, str]]:
        """The default URL, and the URLs by model name.

        Raises:
            ConfigError: a value is not a URL, or there is not exactly one default URL.
        """
        pairs = [value.partition("=") for value in self.upstream]
        by_model = {model: url for model, equals, url in pairs if equals and "://" not in model}
        defaults = [url for url in self.upstream if "://" in url.partition("=")[0]]
        if len(defaults) != 1 or len(defaults) + len(by_model) != len(self.upstream):
            defaults = defaults or [""]
            if len(defaults) == 1:
                check_upstream(defaults[0])
            raise ConfigError(
                "--upstream: give exactly one URL without a model, and each other one as MODEL=URL"
            )
        for url in (defaults[0], *by_model.values()):
            check_upstream(url)
        return _base(defaults[0]), {model: _base(url) for model, url in by_model.items()}

    @property
    def unused_proxies(self) -> list[str]:
        """Variables that name a proxy for an upstream; the gateway does not use proxies."""
        default, by_model = self.upstreams
        parts = [urlsplit(url) for url in (default, *by_model.values())]
        schemes = {part.scheme for part in parts if not proxy_bypass(part.hostname or "")}
        names = getproxies().keys() & (schemes | {"all"}) if schemes else ()
        return [f"{name.upper()}_PROXY" for name in sorted(names)]

    def tls(self) -> ssl.SSLContext | None:
        """Return the TLS context for https upstreams, or None for the system's default.

        Raises:
            ConfigError: a file is missing or is not PEM.
        """
        if self.upstream_ca is None and self.upstream_cert is None:
            return None
        try:
            context = ssl.create_default_context(cafile=self.upstream_ca)
            if self.upstream_cert is not None:
                context.load_cert_chain(self.upstream_cert)
        except OSError as error:
            raise ConfigError(
                f"--upstream-ca or --upstream-cert: {error.strerror or error}; give PEM files"
            ) from error
        return context


def _base(upstream: str) -> str:
    """Return the URL that requests' paths are added to: they start with /v1 themselves."""
    return upstream.rstrip("/").removesuffix("/v1")


def check_upstream(upstream: str) -> None:
    """Check that a string is the base URL of a server.

    Raises:
        ConfigError: it is not an http(s) URL with a host and a valid port, or it contains a user
            or password; secrets belong in the clients' Authorization header.
    """
    if "unix" in upstream.partition(":")[0]:
        raise ConfigError(
            f"--upstream {upstream}: unix sockets are not supported; let the server listen on a "
            "port and give a URL like http://127.0.0.1:8000"
        )
    try:
        parts = urlsplit(upstream)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        valid = valid and not (parts.username or parts.query or parts.fragment)
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(
            "--upstream: give a URL like http://127.0.0.1:8000, with http:// or https:// before "
            "the host, and without a password"
        )
