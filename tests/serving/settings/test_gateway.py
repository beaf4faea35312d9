"""The gateway's settings for TLS to upstream."""

import datetime
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from envs.errors import ConfigError
from serving.http.relay import Relay
from serving.processes.gateway import Gateway
from serving.settings.gateway import GatewayConfig
from tests.serving.hooks import CHAT, hook, post
from tests.serving.upstream import Upstream, served


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Path of a PEM file with a self-signed certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "upstream")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "pair.pem"
    pem = serialization.Encoding.PEM
    key_format = serialization.PrivateFormat.PKCS8
    key_pem = key.private_bytes(pem, key_format, serialization.NoEncryption())
    path.write_bytes(signed.public_bytes(pem) + key_pem)
    return path


def config(tmp_path, **settings):
    return GatewayConfig(policy=[str(tmp_path)], upstream=["https://127.0.0.1:1"], **settings)


def test_upstreams_certificate_is_verified(tmp_path, certificate):
    tls_options = {"ssl_certfile": str(certificate), "ssl_keyfile": str(certificate)}
    made_hook = hook(tmp_path)
    with served(Upstream(), **tls_options) as url:
        url = url.replace("http:", "https:")
        tls = config(tmp_path, upstream_ca=certificate).tls()
        with served(Gateway(made_hook, Relay(url, tls=tls))) as gateway:
            assert post(gateway, CHAT)[0] == 200
        # Without the authority's certificate, upstream is not trusted and is sent nothing.
        with served(Gateway(made_hook, Relay(url, tls=config(tmp_path).tls()))) as gateway:
            status, body, _ = post(gateway, CHAT)
            assert (status, b"Certificate" in body) == (502, True)


def test_upstream_may_require_a_client_certificate(tmp_path, certificate):
    tls_options = {"ssl_certfile": str(certificate), "ssl_keyfile": str(certificate)}
    mutual_tls_options = {**tls_options, "ssl_ca_certs": str(certificate), "ssl_cert_reqs": 2}
    made_hook = hook(tmp_path)
    with served(Upstream(), **mutual_tls_options) as url:
        url = url.replace("http:", "https:")
        with_certificate = config(
            tmp_path, upstream_ca=certificate, upstream_cert=certificate
        ).tls()
        with served(Gateway(made_hook, Relay(url, tls=with_certificate))) as gateway:
            assert post(gateway, CHAT)[0] == 200
        without_certificate = config(tmp_path, upstream_ca=certificate).tls()
        with served(Gateway(made_hook, Relay(url, tls=without_certificate))) as gateway:
            assert post(gateway, CHAT)[0] == 502


@pytest.mark.parametrize("field", ["upstream_ca", "upstream_cert"])
@pytest.mark.parametrize("content", [None, "no PEM"])
def test_a_missing_or_wrong_pem_file_is_refused(tmp_path, field, content):
    path = tmp_path / "x.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match="PEM"):
        config(tmp_path, **{field: path}).tls()


def upstreams(*values):
    return GatewayConfig(policy=["p"], upstream=list(values)).upstreams


@pytest.mark.parametrize(
    "written", ["http://a:1", "http://a:1/", "http://a:1/v1", "http://a:1/v1/"]
)
def test_the_version_may_stand_at_the_end_of_an_upstreams_url(written):
    assert upstreams(written, f"m={written}") == ("http://a:1", {"m": "http://a:1"})
    assert upstreams("http://a/proxy/v1")[0] == "http://a/proxy"


@pytest.mark.parametrize("url", ["unix:///run/llm.sock", "http+unix://%2Frun", "m=unix:/run/a"])
def test_a_unix_socket_is_refused_with_what_to_do(url):
    with pytest.raises(ConfigError, match=r"unix sockets are not supported; .*http://127"):
        upstreams(*([] if url.startswith(("unix", "http")) else ["http://a"]), url)


def test_proxies_of_the_environment_are_named_as_unused(monkeypatch):
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    config = GatewayConfig(policy=["p"], upstream=["http://a:1"])
    assert config.unused_proxies == []
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy:3128")
    assert config.unused_proxies == []
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@proxy:3128")
    assert config.unused_proxies == ["HTTP_PROXY"]
    monkeypatch.setenv("NO_PROXY", "a")
    assert config.unused_proxies == []


def test_an_upstream_may_have_an_ipv6_address(tmp_path):
    made_hook, upstream = hook(tmp_path), Upstream()
    with (
        served(upstream, host="::1") as url,
        served(Gateway(made_hook, Relay(url))) as gateway,
    ):
        assert url.startswith("http://[::1]:")
        assert post(gateway, CHAT)[0] == 200
