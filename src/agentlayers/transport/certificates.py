"""
Read certificates and keys from PEM files, saying what is wrong with them while an operator is still looking.

OpenSSL's own words for a missing file, a key of another certificate or an expired one are hard to act on, and some
of them come only with the first connection.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentlayers.errors import SettingsError
from agentlayers.transport.address import has_tls

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

__all__ = ["client_context", "load_authority", "load_certificate", "tls_context"]


def _now() -> datetime:
    return datetime.now(UTC)


def tls_context(
    url: str, given: ssl.SSLContext | None, files: tuple[str | None, str | None, str | None]
) -> ssl.SSLContext | None:
    """
    Return what a transport uses for TLS: a context it was given, or one made of files.

    Args:
        url: The server's address.
        given: A context of the caller.
        files: ``ca``, ``client_cert`` and ``client_key``.

    Raises:
        SettingsError: Both, a file that cannot be used, or an address without TLS.
    """
    made = client_context(*files)
    if made is not None and given is not None:
        raise SettingsError(setting="ssl", secret=True, expected="either ssl, or ca and client_cert")
    if (made or given) is not None and not has_tls(url):
        raise SettingsError(setting="url", value=url, expected="wss:// or tls:// where certificates are given")
    return made or given


def client_context(
    ca: str | Path | None,
    client_cert: str | Path | None,
    client_key: str | Path | None,
    *,
    now: Callable[[], datetime] = _now,
) -> ssl.SSLContext | None:
    """
    Make what a client needs for TLS; empty texts count as not given.

    Args:
        ca: Trust only what the authorities in this file signed, instead of those of the system.
        client_cert: What the client shows of itself, with its chain.
        client_key: Its private key; may stand in ``client_cert`` too.
        now: Today's date.

    Returns:
        :obj:`None` if nothing was given.

    Raises:
        SettingsError: A file that cannot be used.
    """
    if not (ca or client_cert or client_key):
        return None
    context = ssl.create_default_context(cafile=None)
    if ca:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        load_authority(context, Path(ca), setting="ca", now=now)
    if client_key and not client_cert:
        raise SettingsError(setting="client_cert", expected="the certificate of the given client_key")
    if client_cert:
        settings = ("client_cert", "client_key")
        load_certificate(context, Path(client_cert), Path(client_key or client_cert), settings=settings, now=now)
    return context


def load_authority(context: ssl.SSLContext, path: Path, *, setting: str, now: Callable[[], datetime] = _now) -> None:
    """
    Trust the authorities in a file.

    Raises:
        SettingsError: It cannot be read, holds no certificate, or only expired ones.
    """
    found = _certificates(path, setting, "the certificates of the authorities to trust")
    valid = [one for one in found if one.not_valid_after_utc > now()]
    if not valid:
        raise _expired(setting, path, found[0])
    context.load_verify_locations(cafile=path)


def load_certificate(
    context: ssl.SSLContext,
    certificate: Path,
    key: Path,
    *,
    settings: tuple[str, str],
    now: Callable[[], datetime] = _now,
) -> None:
    """
    Show a certificate to peers.

    Args:
        context: Takes it.
        certificate: The certificate and then its chain.
        key: Its private key; may be the same file.
        settings: What the two are called where the operator wrote them.
        now: Today's date.

    Raises:
        SettingsError: One cannot be read or used, they do not belong together, or the certificate is not valid now.
    """
    certificate_setting, key_setting = settings
    own = _certificates(certificate, certificate_setting, "a certificate and then its chain")[0]
    if own.not_valid_after_utc <= now():
        raise _expired(certificate_setting, certificate, own)
    if own.not_valid_before_utc > now():
        since = f"{own.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        expected = f"a certificate that is valid now; this one is valid from {since} on"
        raise SettingsError(setting=certificate_setting, value=str(certificate), expected=expected)
    if _public_bytes(_private_key(key, key_setting).public_key()) != _public_bytes(own.public_key()):
        expected = f"the private key of the certificate {str(certificate)!r}; it is that of another one"
        raise SettingsError(setting=key_setting, value=str(key), expected=expected)
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        expected = f"a certificate that OpenSSL takes ({error.reason or error})"
        raise SettingsError(setting=certificate_setting, value=str(certificate), expected=expected) from error


def _certificates(path: Path, setting: str, content: str) -> list[Certificate]:
    from cryptography.x509 import load_pem_x509_certificates

    data = _read(path, setting, content)
    try:
        return load_pem_x509_certificates(data)
    except ValueError:
        expected = f"a PEM file with {content} (-----BEGIN CERTIFICATE-----)"
        raise SettingsError(setting=setting, value=str(path), expected=expected) from None


def _private_key(path: Path, setting: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read(path, setting, "a private key")
    try:
        return load_pem_private_key(data, password=None)
    except TypeError:
        expected = "a private key without a passphrase; nobody could enter one when the connection is opened"
        raise SettingsError(setting=setting, value=str(path), expected=expected) from None
    except (ValueError, UnsupportedAlgorithm):
        expected = "a PEM file with a private key (-----BEGIN PRIVATE KEY-----)"
        raise SettingsError(setting=setting, value=str(path), expected=expected) from None


def _public_bytes(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    found: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return found


def _read(path: Path, setting: str, content: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        expected = f"a readable PEM file with {content} ({error.strerror or error})"
        raise SettingsError(setting=setting, value=str(path), expected=expected) from error


def _expired(setting: str, path: Path, certificate: Certificate) -> SettingsError:
    until = f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    return SettingsError(
        setting=setting, value=str(path), expected=f"a certificate that is valid now; this one expired on {until}"
    )
