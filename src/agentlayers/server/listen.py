"""Say what is wrong with an address the server cannot listen on."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from typing import Any, Final

from agentlayers.errors import ConfigurationError

__all__ = ["bind_error", "check_free", "format_host", "is_loopback"]

_REFUSALS: Final = frozenset({errno.EADDRINUSE, errno.EACCES, errno.EPERM})


def is_loopback(host: str) -> bool:
    """
    Whether only this machine can reach an interface; a name other than ``localhost`` counts as reachable.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)

    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def format_host(host: str) -> str:
    """
    Return a host as it stands in a URL.

    >>> format_host("::1"), format_host("127.0.0.1")
    ('[::1]', '127.0.0.1')

    """
    return f"[{host}]" if ":" in host else host


@contextlib.contextmanager
def bind_error(host: str, port: int, option: str) -> Iterator[None]:
    """
    Turn the operating system's refusal into a text an operator can act on.

    Args:
        host: What was asked for.
        port: As above.
        option: What the port is called on the command line.

    Raises:
        ConfigurationError: Whatever made the address unusable.
    """
    try:
        yield
    except OSError as error:
        raise ConfigurationError(_explain(error, host, port, option)) from error


def check_free(host: str, port: int, option: str) -> None:
    """
    See whether a port is free and allowed, and leave it free. What else may be wrong with it shows at the start.

    Args:
        host: Interface, or its name.
        port: To look at; 0 is always free.
        option: What the port is called on the command line.

    Raises:
        ConfigurationError: The port is in use or not allowed.
    """
    if port == 0:
        return
    try:
        with bind_error(host, port, option):
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, kind, protocol, _, address in found:
                _bind(family, kind, protocol, address)
    except ConfigurationError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _REFUSALS:
            raise


def _bind(family: int, kind: int, protocol: int, address: Any) -> None:
    """Bind an address as the event loop will, and give it up."""
    with socket.socket(family, kind, protocol) as sock:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)


def _explain(error: OSError, host: str, port: int, option: str) -> str:
    where = f"cannot listen on {format_host(host)}:{port}"
    if isinstance(error, socket.gaierror):
        return f"{where}: the host name is not known; give an address of this machine, such as 127.0.0.1"
    if error.errno == errno.EADDRINUSE:
        return f"{where}: the port is in use; stop what uses it, or choose another with {option} (0 picks a free one)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{where}: permission denied; ports below 1024 need privileges, choose a higher one with {option}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where}: no interface of this machine has that address; use 127.0.0.1, or 0.0.0.0 for all"
    return f"{where}: {error.strerror or error}"
