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
