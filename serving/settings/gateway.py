"""What `sprout serve` takes beyond the hook's settings: addresses, upstreams, TLS."""

import ssl
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field

from envs.errors import ConfigError
from serving.settings.hook import HookConfig, Listed


class GatewayConfig(HookConfig):
    """What `sprout serve` takes."""

    upstream: Listed = Field(
        min_length=1,
        description="the server's URL, e.g. http://127.0.0.1:8000; further ones as MODEL=URL",
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="0 takes a free one")
    admin_host: str = Field("127.0.0.1", description="address of metrics and settings")
    admin_port: int = Field(8081, ge=0, le=65535, description="0 takes a free one")
    workers: int = Field(1, ge=1, le=256, description="processes that answer requests")
    drain_seconds: int = Field(120, ge=0, description="s that requests may finish in at the end")
    upstream_ca: Path | None = Field(None, description="PEM of authorities for https upstreams")
    upstream_cert: Path | None = Field(None, description="PEM of a client certificate and key")

    @property
    def upstreams(self) -> tuple[str, dict[str, str]]:
        """The first URL, and those of named models.

        Raises:
            ConfigError: one is no URL.
        """
        named = [given.partition("=") for given in self.upstream]
        urls = {model: url for model, equals, url in named if equals and "://" not in model}
        plain = [url for url in self.upstream if "://" in url.partition("=")[0]]
        if len(plain) != 1 or len(plain) + len(urls) != len(self.upstream):
            plain = plain or [""]
            if len(plain) == 1:
                check_upstream(plain[0])
            raise ConfigError("--upstream: give one URL, and further ones as MODEL=URL")
        for url in (plain[0], *urls.values()):
            check_upstream(url)
        return plain[0], urls

    def tls(self) -> ssl.SSLContext | None:
        """For https upstreams; None is the system's own.

        Raises:
            ConfigError: a file is missing or no PEM.
        """
        if self.upstream_ca is None and self.upstream_cert is None:
            return None
        try:
            context = ssl.create_default_context(cafile=self.upstream_ca)
            if self.upstream_cert is not None:
                context.load_cert_chain(self.upstream_cert)
        except OSError as error:
            raise ConfigError(
                f"--upstream-ca, --upstream-cert: {error.strerror or error}; give PEM files"
            ) from error
        return context


def check_upstream(upstream: str) -> None:
    """Refuse what is no base URL of a server.

    Raises:
        ConfigError: no http(s) URL with a host and a possible port, or one with a
            password, which belongs into the clients' own Authorization header.
    """
    try:
        parts = urlsplit(upstream)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        fits = fits and not (parts.username or parts.query or parts.fragment)
    except ValueError:
        fits = False
    if not fits:
        raise ConfigError("--upstream: give a URL like http://127.0.0.1:8000, without a password")
