"""Passwords, tokens and certificates come from variables and files; what is missing is named, what is secret is not."""

import asyncio
import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from streams.credentials import CredentialError, TokenEndpoint, TokenFile, sasl_options, tls_context
from streams.kafka import client_options
from streams.settings import KafkaSettings


def settings(**fields: object) -> KafkaSettings:
    return KafkaSettings(
        **{"bootstrap": "b:1", "security_protocol": "SASL_PLAINTEXT", "sasl_username": "ann", **fields}
    )


def test_a_password_comes_from_a_file_without_its_last_line_break(tmp_path):
    file = tmp_path / "password"
    file.write_text("hunter2\n")
    options = client_options(settings(sasl_password_file=file))
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("ann", "hunter2")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "SASL_PASSWORD_FILE"),
        ({"sasl_password_file": "missing"}, "kafka.sasl_password_file .*No such file"),
        ({"sasl_password_file": "empty"}, "the file is empty"),
        ({"sasl_password": "x", "sasl_username": None}, "kafka.sasl_username"),
        ({"sasl_mechanism": "OAUTHBEARER"}, "kafka.sasl_token_file, or kafka.sasl_token_url"),
        ({"sasl_mechanism": "OAUTHBEARER", "sasl_token_file": "missing"}, "kafka.sasl_token_file .*No such file"),
    ],
)
def test_what_is_missing_is_named(tmp_path, monkeypatch, fields, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(CredentialError, match=message):
        sasl_options(settings(**fields))


@pytest.fixture
def certificates(tmp_path):
    ca = trustme.CA()
    issued = ca.issue_cert("localhost")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2"))
    (tmp_path / "locked.pem").write_bytes(locked)
    (tmp_path / "noise.pem").write_text("noise")
    return tmp_path


def test_a_client_with_a_certificate_shows_it_and_checks_the_brokers(certificates):
    kafka = settings(
        security_protocol="SSL",
        ca_file=certificates / "ca.pem",
        certificate_file=certificates / "cert.pem",
        key_file=certificates / "key.pem",
    )
    context = client_options(kafka)["ssl_context"]
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ca_file": "missing.pem"}, "kafka.ca_file .*No such file"),
        ({"ca_file": "noise.pem"}, "kafka.ca_file"),
        ({"certificate_file": "cert.pem", "key_file": "missing.pem"}, "kafka.key_file .*No such file"),
        ({"certificate_file": "cert.pem", "key_file": "locked.pem"}, "the key not encrypted"),
        ({"key_file": "key.pem"}, "without kafka.certificate_file"),
    ],
)
def test_a_certificate_that_will_not_do_is_named(certificates, fields, message):
    paths = {name: certificates / file for name, file in fields.items()}
    with pytest.raises(CredentialError, match=message):
        tls_context(settings(security_protocol="SSL", **paths))


def web_token(expiry: float) -> str:
    parts = ({"alg": "none"}, {"sub": "ann", "exp": expiry})
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."


def test_a_token_file_is_read_anew_for_every_connection_and_an_expired_token_is_refused(tmp_path):
    file = tmp_path / "token"
    file.write_text(web_token(time.time() + 60))
    provider = sasl_options(settings(sasl_mechanism="OAUTHBEARER", sasl_token_file=file))["sasl_oauth_token_provider"]
    assert isinstance(provider, TokenFile)
    assert asyncio.run(provider.token()) == file.read_text()
    file.write_text("opaque\n")
    assert asyncio.run(provider.token()) == "opaque"
    file.write_text(web_token(time.time() - 60))
    with pytest.raises(CredentialError, match=r"expired 6\d s ago"):
        asyncio.run(provider.token())


@pytest.fixture
def issuer():
    """An OAuth 2.0 server with one client, ``ann`` with the secret ``hunter2``."""
    asked: list[dict[str, list[str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()))
            good = self.headers["Authorization"] == "Basic " + base64.b64encode(b"ann:hunter2").decode()
            self.send_response(200 if good else 401)
            self.end_headers()
            self.wfile.write(json.dumps({"access_token": f"token {len(asked)}", "expires_in": 3600}).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_a_token_is_fetched_with_the_clients_own_credentials_and_kept_until_it_is_old(issuer):
    url, asked = issuer
    kafka = settings(
        sasl_mechanism="OAUTHBEARER", sasl_token_url=url, sasl_password="hunter2", sasl_token_scope="kafka"
    )
    provider = sasl_options(kafka)["sasl_oauth_token_provider"]
    assert isinstance(provider, TokenEndpoint)
    assert [asyncio.run(provider.token()) for _ in range(2)] == ["token 1", "token 1"]
    assert asked == [{"grant_type": ["client_credentials"], "scope": ["kafka"]}]
    provider._renew_at = 0.0
    assert asyncio.run(provider.token()) == "token 2"


def test_an_issuer_that_refuses_is_named_and_the_secret_is_not(issuer):
    with pytest.raises(CredentialError, match=r"refused with 401.*kafka\.sasl_password") as caught:
        asyncio.run(TokenEndpoint(issuer[0], "ann", "not-this-one", None).token())
    assert "not-this-one" not in str(caught.value)
    with pytest.raises(CredentialError, match="gave no token"):
        asyncio.run(TokenEndpoint("http://127.0.0.1:1", "ann", "not-this-one", None).token())
