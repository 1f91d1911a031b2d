"""
What a TCP peer on this machine has not read yet: its kernel knows, and it is ours.

A machine acknowledges what it has received, whether or not a program reads it, so of a peer on another one nothing of
this can be seen. Linux only (``sock_diag``, open to every user).
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from typing import Final

__all__ = ["unread_bytes"]

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_ANSWER_BYTES_MAX: Final = 4096

_HEADER: Final = struct.Struct("=IHHII")
"""``struct nlmsghdr``: length, type, flags, sequence, port."""

_REQUEST: Final = struct.Struct("=BBBxI")
"""Begin of ``struct inet_diag_req_v2``: family, protocol, extensions, states. A ``struct inet_diag_sockid`` follows."""

_PORTS: Final = struct.Struct("!HH")
"""``struct inet_diag_sockid``: ports and addresses in network order, interface and cookie of the machine's."""

_ANY_INTERFACE_AND_COOKIE: Final = struct.pack("=III", 0, 0xFFFF_FFFF, 0xFFFF_FFFF)

_ANSWER: Final = struct.Struct("=4x48xII")
"""Begin of ``struct inet_diag_msg``: what comes before, expiry, bytes that wait to be read."""


def unread_bytes(sock: socket.socket) -> int | None:
    """
    Return how many bytes wait at the other end of a TCP connection to be read.

    Args:
        sock: Our end; open.

    Returns:
        The bytes; :obj:`None` if the other end is not on this machine, in another network namespace, or gone, and where
        the system does not tell.
    """
    if sys.platform != "linux" or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        ours, theirs = sock.getsockname(), sock.getpeername()
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, _NETLINK_SOCK_DIAG) as kernel:
            kernel.send(_question(sock.family, theirs, ours))
            answer = kernel.recv(_ANSWER_BYTES_MAX)
    except OSError:
        return None
    return _unread_of(answer)


def _question(family: int, source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    """Ask for the socket that sends from ``source`` to ``destination``."""
    ends = _PORTS.pack(source[1], destination[1]) + _address(source) + _address(destination)
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0xFFFF_FFFF) + ends + _ANY_INTERFACE_AND_COOKIE
    return _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0) + body


def _address(end: tuple[str, int]) -> bytes:
    return ipaddress.ip_address(end[0].partition("%")[0]).packed.ljust(16, b"\0")


def _unread_of(answer: bytes) -> int | None:
    if len(answer) < _HEADER.size + _ANSWER.size or _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        return None  # an error: there is no such socket
    _, unread = _ANSWER.unpack_from(answer, _HEADER.size)
    return int(unread)
