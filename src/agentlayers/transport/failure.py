"""Say in one line why a socket could not be opened."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Final

__all__ = ["describe_failure"]

_REASONS: Final = {
    errno.ECONNREFUSED: "connection refused; is the server running there?",
    errno.EHOSTUNREACH: "no route to that host",
    errno.ENETUNREACH: "the network is unreachable",
    errno.ETIMEDOUT: "no answer",
    errno.ECONNRESET: "the server reset the connection",
    errno.EPIPE: "the server closed the connection",
}


def describe_failure(error: BaseException) -> str:
    """
    Render a socket error for an operator.

    >>> describe_failure(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))
    'connection refused; is the server running there?'

    """
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
