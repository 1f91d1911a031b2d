"""
Say in one line why a socket could not be opened, or was closed again.

What TLS alerts say is passed on; where there is none, nothing is read into the end of a connection. With TLS 1.3 a
server judges the client's certificate after the client has finished its handshake, so its alert comes with the first
read, in place of an answer.
"""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Final

from agentlayers.errors import AuthenticationError, ConnectError

__all__ = ["CUT_AFTER_HANDSHAKE", "NO_WEBSOCKET", "certificate_refusal", "connect_failure", "describe_failure", "shown"]

NO_WEBSOCKET: Final = "the server closed the connection without an answer; is it tcp://, or wss://?"
"""What can be said of a server that does not answer to an upgrade."""

CUT_AFTER_HANDSHAKE: Final = (
    "the server closed the connection after the TLS handshake without saying why; some do so that miss a client"
    " certificate, or do not accept the one shown"
)
"""What can be said of a connection that ended without an alert and without any answer."""

_CAUSES_MAX: Final = 8
_SHOWN_CHARACTERS_MAX: Final = 300

_REASONS: Final = {
    errno.ECONNREFUSED: "connection refused; is the server running there?",
    errno.EHOSTUNREACH: "no route to that host",
    errno.ENETUNREACH: "the network is unreachable",
    errno.ETIMEDOUT: "no answer",
    errno.ECONNRESET: "the server reset the connection",
    errno.EPIPE: "the server closed the connection",
}

_REFUSALS: Final = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": (
        "asks for a client certificate; give the one its operator issued (client_cert, --client-cert)"
    ),
    "TLSV1_ALERT_UNKNOWN_CA": (
        "refused the client certificate: it does not know the authority that signed it; give one its operator issued"
    ),
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "refused the client certificate: it has expired; renew it",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "refused the client certificate: it was revoked",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "refused the client certificate: it is of a kind the server does not take",
    "SSLV3_ALERT_BAD_CERTIFICATE": "refused the client certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "refused the client certificate",
    "TLSV1_ALERT_DECRYPT_ERROR": "refused the client certificate: its signature is wrong",
    "TLSV1_ALERT_ACCESS_DENIED": "does not let the owner of the client certificate in",
}
"""The server's alerts that say: not with this certificate."""

_TLS_REASONS: Final = {
    "WRONG_VERSION_NUMBER": "the server does not speak TLS at that address; is it ws:// or tcp://?",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the server takes none of the versions of TLS that are spoken here",
    "UNSUPPORTED_PROTOCOL": "the server speaks only versions of TLS that are too old",
    "TLSV1_UNRECOGNIZED_NAME": "the server does not know the host name in the address",
    # Without TLS 1.3 there is no alert of its own for a missing certificate.
    "SSLV3_ALERT_HANDSHAKE_FAILURE": (
        "the server refused the handshake; one that asks for a client certificate says this with TLS 1.2, one that"
        " shares no cipher always"
    ),
    "UNEXPECTED_EOF_WHILE_READING": "the server cut the connection",
}

_CHAIN_REASONS: Final = {
    9: "the server's certificate, or one in its chain, is not valid yet; is the clock right here?",
    10: "the server's certificate, or one in its chain, has expired; its operator has to renew it",
    62: "the server's certificate is for another host; connect to a name that stands in it",
    64: "the server's certificate is for another host; connect to a name that stands in it",
}
"""By OpenSSL's code of what is wrong with a chain."""

_UNTRUSTED: Final = frozenset({18, 19, 20, 21})
"""OpenSSL's codes for a chain that ends in nobody we trust."""


def connect_failure(error: BaseException, *, url: str) -> AuthenticationError | ConnectError:
    """Translate why a connection could not be opened: the server refused our certificate, or anything else."""
    refusal = certificate_refusal(error)
    if refusal is not None:
        return AuthenticationError(f"{url} {refusal}")
    return ConnectError(url=url, reason=describe_failure(error))


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
    if isinstance(error, ssl.SSLError):
        return f"TLS: {_describe_tls(error)}"
    if isinstance(error, socket.gaierror):
        return "that host name is not known"
    if isinstance(error, OSError) and error.errno in _REASONS:
        return _REASONS[error.errno]
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = getattr(error, "strerror", None) or str(error)
    if isinstance(error, ConnectionResetError) and not text:  # of asyncio, during a TLS handshake
        return "the server closed the connection during the handshake"
    return shown(text) or type(error).__name__


def shown(text: str) -> str:
    r"""
    Return what a peer may have written as one short line, without escapes that would reach a terminal.

    >>> shown("bye\x1b[2J")
    'bye\\x1b[2J'

    """
    cut = text if len(text) <= _SHOWN_CHARACTERS_MAX else f"{text[:_SHOWN_CHARACTERS_MAX]} ..."
    if cut.isprintable():
        return cut
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in cut)


def _describe_tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message
        if error.verify_code in _UNTRUSTED:
            return f"no trusted authority signed the server's certificate ({said}); give its CA (ca, --ca)"
        if error.verify_code in _CHAIN_REASONS:
            return f"{_CHAIN_REASONS[error.verify_code]} ({said})"
    if error.reason in _TLS_REASONS:
        return _TLS_REASONS[error.reason]
    return getattr(error, "verify_message", "") or error.reason or "handshake failed"
