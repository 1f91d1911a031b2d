"""Say in one line why a socket could not be opened."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Final

__all__ = ["CUT_AFTER_HANDSHAKE", "certificate_refusal", "describe_failure"]

CUT_AFTER_HANDSHAKE: Final = (
    "the server closed the connection right after the TLS handshake; it may not trust the authority that signed this"
    " replica's client certificate"
)
"""What a server's refusal looks like that came without an alert: in TLS 1.3 the client has finished by then."""

_CAUSES_MAX: Final = 8

_REASONS: Final = {
    errno.ECONNREFUSED: "connection refused; is the server running there?",
    errno.EHOSTUNREACH: "no route to that host",
    errno.ENETUNREACH: "the network is unreachable",
    errno.ETIMEDOUT: "no answer",
    errno.ECONNRESET: "the server reset the connection",
    errno.EPIPE: "the server closed the connection",
}


_REFUSALS: Final = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "asks for a client certificate; give the one its operator issued",
    "TLSV1_ALERT_UNKNOWN_CA": "does not know the authority that signed this client certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "refused the client certificate: it has expired",
    "SSLV3_ALERT_BAD_CERTIFICATE": "refused the client certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "refused the client certificate",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "refused the handshake; it may ask for a client certificate",
}
"""The server's alerts that say: not with this certificate."""

_UNTRUSTED: Final = frozenset({18, 19, 20, 21})
"""OpenSSL's codes for a chain that ends in nobody we trust."""


def certificate_refusal(error: BaseException | None) -> str | None:
    """Return why a server refused our certificate, or that it misses one; :obj:`None` if it is not that."""
    for _ in range(_CAUSES_MAX):
        if error is None:
            return None
        # aiohttp's own errors are SSLErrors too, without a reason.
        if isinstance(error, ssl.SSLError) and getattr(error, "reason", "") in _REFUSALS:
            return _REFUSALS[error.reason]
        error = error.__cause__ or error.__context__
    return None


def describe_failure(error: BaseException) -> str:
    """
    Render a socket error for an operator.

    >>> describe_failure(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))
    'connection refused; is the server running there?'

    """
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _UNTRUSTED:
        return f"TLS: no trusted authority signed the server's certificate ({error.verify_message}); give its CA (--ca)"
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "TLS: the server does not speak TLS at that address; is it ws:// or tcp://?"
    if isinstance(error, ssl.SSLError):
        detail = getattr(error, "verify_message", "") or error.reason or "handshake failed"
        return f"TLS: {detail}"
    if isinstance(error, socket.gaierror):
        return "that host name is not known"
    if isinstance(error, OSError) and error.errno in _REASONS:
        return _REASONS[error.errno]
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = getattr(error, "strerror", None) or str(error)
    return text or type(error).__name__
