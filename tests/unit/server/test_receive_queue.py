"""Of a TCP peer on this machine it is seen how much it has not read."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest

from agentlayers.server.receive_queue import _unread_of, unread_bytes
from helpers.peer_sight import needs_peer_sight


@contextlib.contextmanager
def connected(listen_on: str, host: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A server's and a client's end of one connection."""
    family = socket.AF_INET6 if ":" in listen_on else socket.AF_INET
    with socket.socket(family) as listening:
        try:
            listening.bind((listen_on, 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        listening.listen()
        with socket.create_connection((host, listening.getsockname()[1])) as client:
            server, _ = listening.accept()
            with server:
                yield server, client


@needs_peer_sight
@pytest.mark.parametrize(
    ("listen_on", "host"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1"), ("::", "::1")]
)
def test_what_waits_at_the_other_end_is_counted(listen_on: str, host: str) -> None:
    with connected(listen_on, host) as (server, client):
        assert unread_bytes(server) == 0
        server.sendall(bytes(30_000))
        client.settimeout(10)
        assert len(client.recv(1)) == 1  # so all of it has arrived
        before = unread_bytes(server)
        read = len(client.recv(10_000))
        after = unread_bytes(server)
        client.recv(30_000, socket.MSG_WAITALL if read + 1 == 30_000 else 0)

        assert (before, after) == (29_999, 29_999 - read)


@needs_peer_sight
def test_one_end_does_not_count_for_the_other() -> None:
    with connected("127.0.0.1", "127.0.0.1") as (server, client):
        client.sendall(b"what the server has not read")

        assert unread_bytes(server) == 0


def test_of_a_socket_that_is_closed_or_no_tcp_nothing_is_known() -> None:
    with connected("127.0.0.1", "127.0.0.1") as (server, _):
        pass
    assert unread_bytes(server) is None
    one, other = socket.socketpair()
    with one, other:
        other.send(b"unread")

        assert unread_bytes(one) is None


@needs_peer_sight
def test_a_peer_that_is_not_of_this_machine_is_not_taken_for_one_that_has_read_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with connected("127.0.0.1", "127.0.0.1") as (server, _):
        monkeypatch.setattr(socket.socket, "getpeername", lambda _: ("192.0.2.1", 4000))

        assert unread_bytes(server) is None


@pytest.mark.parametrize("answer", [b"", struct.pack("=IHHIIi", 20, 2, 0, 0, 0, -2), bytes(200)])
def test_an_answer_that_tells_nothing_is_no_count(answer: bytes) -> None:
    assert _unread_of(answer) is None
