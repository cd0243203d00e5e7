"""Who this process is to the cluster: passwords and tokens from the environment or files, certificates.

Secrets are read when a connection is made, so a file may be replaced while a stage runs.
"""

import asyncio
import base64
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from aiokafka.abc import AbstractTokenProvider

from schemas.errors import BadInputError
from streams.settings import KafkaSettings

FETCH_SECONDS = 10.0
EARLY_SECONDS = 30.0  # a token is replaced so long before it expires


class CredentialError(BadInputError):
    """A password, token or certificate is missing or can't be read; the message names the setting."""


def tls_context(kafka: KafkaSettings) -> ssl.SSLContext:
    """Return what a client needs to know a broker by its certificate, and to show its own where it has one.

    Raises:
        CredentialError: a file can't be read or is not what it should be.

    """
    try:
        context = ssl.create_default_context(cafile=kafka.ca_file)
    except OSError as error:
        raise CredentialError(f"kafka.ca_file {kafka.ca_file}: {_why(error)}; it takes certificates in PEM") from error
    if kafka.certificate_file is not None:
        try:
            context.load_cert_chain(kafka.certificate_file, kafka.key_file, password="")  # an encrypted key is refused
        except OSError as error:
            raise CredentialError(
                f"kafka.certificate_file {kafka.certificate_file} and kafka.key_file {kafka.key_file}: {_why(error)}; "
                "they take a certificate and its key in PEM, the key not encrypted"
            ) from error
    elif kafka.key_file is not None:
        raise CredentialError("kafka.key_file without kafka.certificate_file: set both, or neither")
    return context


def sasl_options(kafka: KafkaSettings) -> dict[str, Any]:
    """Return aiokafka's arguments for the configured mechanism.

    Raises:
        CredentialError: a part of the credentials is missing or can't be read.

    """
    if kafka.sasl_mechanism == "OAUTHBEARER":
        return {"sasl_mechanism": kafka.sasl_mechanism, "sasl_oauth_token_provider": _token_provider(kafka)}
    password = _password(kafka)
    if kafka.sasl_username is None or password is None:
        raise CredentialError(
            f"{kafka.sasl_mechanism} needs kafka.sasl_username and a password: set TABLECAST_KAFKA__SASL_USERNAME and "
            "TABLECAST_KAFKA__SASL_PASSWORD or TABLECAST_KAFKA__SASL_PASSWORD_FILE"
        )
    return {
        "sasl_mechanism": kafka.sasl_mechanism,
        "sasl_plain_username": kafka.sasl_username,
        "sasl_plain_password": password,
    }


def _password(kafka: KafkaSettings) -> str | None:
    if kafka.sasl_password is not None:
        return kafka.sasl_password.get_secret_value()
    return None if kafka.sasl_password_file is None else _secret(kafka.sasl_password_file, "kafka.sasl_password_file")


def _token_provider(kafka: KafkaSettings) -> AbstractTokenProvider:
    if kafka.sasl_token_file is not None:
        _secret(kafka.sasl_token_file, "kafka.sasl_token_file")  # said now, not in the middle of a connection
        return TokenFile(kafka.sasl_token_file)
    password = _password(kafka)
    if kafka.sasl_token_url is None or kafka.sasl_username is None or password is None:
        raise CredentialError(
            "OAUTHBEARER needs kafka.sasl_token_file, or kafka.sasl_token_url with kafka.sasl_username (the client id) "
            "and kafka.sasl_password or kafka.sasl_password_file (its secret)"
        )
    return TokenEndpoint(kafka.sasl_token_url, kafka.sasl_username, password, kafka.sasl_token_scope)


class TokenFile(AbstractTokenProvider):  # type: ignore[misc]
    """A token from a file that somebody else keeps fresh, such as a projected Kubernetes service account token."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def token(self) -> str:
        """Return the file's token as it is now.

        Raises:
            CredentialError: there is none, or it has expired.

        """
        token = _secret(self._file, "kafka.sasl_token_file")
        expiry = _expiry(token)
        if expiry is not None and expiry <= time.time():
            raise CredentialError(
                f"kafka.sasl_token_file {self._file}: the token expired {time.time() - expiry:.0f} s ago; have "
                "whoever writes the file renew it"
            )
        return token


class TokenEndpoint(AbstractTokenProvider):  # type: ignore[misc]
    """Tokens of an OAuth 2.0 server for a client's own credentials (RFC 6749, section 4.4)."""

    def __init__(self, url: str, client_id: str, secret: str, scope: str | None) -> None:
        self._url, self._client_id, self._secret, self._scope = url, client_id, secret, scope
        self._token, self._renew_at = "", 0.0

    async def token(self) -> str:
        """Return a token with some time left.

        Raises:
            CredentialError: the server gives none.

        """
        if time.time() >= self._renew_at:
            self._token, lifetime = await asyncio.to_thread(self._fetch)
            self._renew_at = time.time() + max(lifetime - EARLY_SECONDS, lifetime / 2)
        return self._token

    def _fetch(self) -> tuple[str, float]:
        form = {"grant_type": "client_credentials"} | ({"scope": self._scope} if self._scope else {})
        name = ":".join(urllib.parse.quote(part, safe="") for part in (self._client_id, self._secret))
        request = urllib.request.Request(  # noqa: S310 - the setting takes http and https only
            self._url,
            urllib.parse.urlencode(form).encode(),
            {"Authorization": f"Basic {base64.b64encode(name.encode()).decode()}", "Accept": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=FETCH_SECONDS) as answer:  # noqa: S310
                said = json.load(answer)
            return str(said["access_token"]), float(said.get("expires_in", 300))
        except urllib.error.HTTPError as error:
            raise CredentialError(
                f"kafka.sasl_token_url {self._url} refused with {error.code} {error.reason}: check "
                "kafka.sasl_username, kafka.sasl_password and kafka.sasl_token_scope"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CredentialError(f"kafka.sasl_token_url {self._url} gave no token: {_why(error)}") from None


def _secret(file: Path, setting: str) -> str:
    try:
        secret = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialError(f"{setting} {file}: {_why(error)}") from error
    if not secret:
        raise CredentialError(f"{setting} {file}: the file is empty")
    return secret


def _expiry(token: str) -> float | None:
    """Return when a JSON Web Token expires, seconds since 1970; None for what is not one."""
    try:
        payload = token.split(".")[1]
        return float(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])
    except (IndexError, ValueError, KeyError, TypeError):
        return None


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or repr(error)
