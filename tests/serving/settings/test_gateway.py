"""The gateway's own settings: TLS to upstream."""

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
    """A certificate for 127.0.0.1 that signs itself, with its key, in one PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "upstream")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
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
    form = serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(pem, form, serialization.NoEncryption())
    path.write_bytes(made.public_bytes(pem) + secret)
    return path


def config(tmp_path, **given):
    return GatewayConfig(policy=[str(tmp_path)], upstream=["https://127.0.0.1:1"], **given)


def test_tls_to_upstream_is_verified(tmp_path, certificate):
    pair = {"ssl_certfile": str(certificate), "ssl_keyfile": str(certificate)}
    made = hook(tmp_path)
    with served(Upstream(), **pair) as url:
        url = url.replace("http:", "https:")
        trusted = config(tmp_path, upstream_ca=certificate).tls()
        with served(Gateway(made, Relay(url, tls=trusted))) as gateway:
            assert post(gateway, CHAT)[0] == 200
        # Without the authority it is nobody we know: nothing is sent there.
        with served(Gateway(made, Relay(url, tls=config(tmp_path).tls()))) as gateway:
            status, body, _ = post(gateway, CHAT)
            assert (status, b"Certificate" in body) == (502, True)


def test_upstream_may_ask_who_we_are(tmp_path, certificate):
    pair = {"ssl_certfile": str(certificate), "ssl_keyfile": str(certificate)}
    asks = {**pair, "ssl_ca_certs": str(certificate), "ssl_cert_reqs": 2}
    made = hook(tmp_path)
    with served(Upstream(), **asks) as url:
        url = url.replace("http:", "https:")
        known = config(tmp_path, upstream_ca=certificate, upstream_cert=certificate).tls()
        with served(Gateway(made, Relay(url, tls=known))) as gateway:
            assert post(gateway, CHAT)[0] == 200
        unknown = config(tmp_path, upstream_ca=certificate).tls()
        with served(Gateway(made, Relay(url, tls=unknown))) as gateway:
            assert post(gateway, CHAT)[0] == 502


@pytest.mark.parametrize("field", ["upstream_ca", "upstream_cert"])
@pytest.mark.parametrize("content", [None, "no PEM"])
def test_a_wrong_pem_is_named(tmp_path, field, content):
    path = tmp_path / "x.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match="PEM"):
        config(tmp_path, **{field: path}).tls()
