"""What Ping and Pong carry between peers of ours, and never to a stock one."""

from __future__ import annotations

import msgpack
import pytest

from agentlayers.errors import LimitExceededError, LocalProtocolError, MalformedMessageError
from agentlayers.limits import SUBSCRIPTIONS_PER_CONNECTION_MAX
from agentlayers.protocol.client_session import ClientSession
from agentlayers.protocol.codec import decode_message, encode_message
from agentlayers.protocol.events import PingReceived, PongReceived
from agentlayers.protocol.messages import CAPABILITY_DIGESTS, Extensions, HeadDigest, Hello, Message, Ping, Pong
from agentlayers.protocol.server_session import ServerSession
from unit.protocol.session_pair import KEY, REMOTE, STOCK_HELLO, hello

OURS = Hello(REMOTE, Extensions(1, frozenset({CAPABILITY_DIGESTS}), bytes(16), "default"))
DIGEST = b"sixteen bytes ok"


def talking(greeting: Hello) -> tuple[ClientSession, ServerSession]:
    client, server = ClientSession(is_stream=False), ServerSession(is_stream=False, hello=greeting)
    for data in server.data_to_send():
        client.receive_data(data)
    client.events_received()
    return client, server


@pytest.mark.parametrize(
    "message",
    [
        Ping(1),
        Pong(1),
        Ping(1, {}),
        Ping(2, {KEY: 0, "\u00e4": 2**53}),
        Pong(2, {KEY: HeadDigest(7, DIGEST), "x": HeadDigest(0)}),
        Pong(2, {}),
    ],
)
def test_both_forms_are_written_and_read_back(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


def test_a_plain_ping_and_pong_are_a_stock_peers_to_the_byte() -> None:
    assert encode_message(Ping(1)) == b"\xde\x00\x02\xa2id\x01\xa4_tag\xa4Ping"
    assert encode_message(Pong(1)) == b"\xde\x00\x02\xa2id\x01\xa4_tag\xa4Pong"


def test_a_ping_about_followed_keys_is_answered_with_their_digests() -> None:
    client, server = talking(OURS)
    client.request_changes(KEY, 5)
    ping_id = client.ping({KEY: 5, "not followed": 1})
    for data in client.data_to_send():
        server.receive_data(data)

    assert server.events_received()[-1] == PingReceived(ping_id, {KEY: 5})
    server.send_pong(ping_id, {KEY: HeadDigest(9, DIGEST)})
    for data in server.data_to_send():
        client.receive_data(data)
    assert client.events_received() == [PongReceived(ping_id, {KEY: HeadDigest(9, DIGEST)})]


@pytest.mark.parametrize("greeting", [STOCK_HELLO, hello()], ids=["stock", "older release"])
def test_a_server_that_did_not_announce_it_is_never_sent_cursors(greeting: Hello) -> None:
    client, _ = talking(greeting)

    assert not client.compares_digests
    with pytest.raises(LocalProtocolError, match="does not compare digests"):
        client.ping({KEY: 1})
    client.ping()
    assert client.data_to_send() == [encode_message(Ping(1))]


def test_a_stock_client_gets_a_plain_pong_from_our_server() -> None:
    _, server = talking(OURS)
    server.receive_data(encode_message(Ping(3)))

    assert server.events_received() == []
    assert server.data_to_send() == [encode_message(Pong(3))]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cursors", {"key": -1}),
        ("cursors", {"key": "1"}),
        ("cursors", {"": 1}),
        ("cursors", {"k" * 257: 1}),
        ("cursors", {1: 1}),
        ("cursors", [1]),
        ("cursors", None),
        ("digests", {"key": []}),
        ("digests", {"key": [1, b"short"]}),
        ("digests", {"key": [1, b"x" * 17]}),
        ("digests", {"key": [1, b"x" * 16, 2]}),
        ("digests", {"key": [None]}),
        ("digests", {"key": 1}),
    ],
    ids=repr,
)
def test_what_is_no_cursor_or_digest_is_malformed(field: str, value: object) -> None:
    tag = "Ping" if field == "cursors" else "Pong"
    with pytest.raises(MalformedMessageError):
        decode_message(msgpack.packb({"id": 1, field: value, "_tag": tag}))


def test_more_keys_than_a_connection_may_follow_are_refused_before_they_are_read() -> None:
    cursors = {str(number): 1 for number in range(SUBSCRIPTIONS_PER_CONNECTION_MAX + 1)}
    with pytest.raises(LimitExceededError, match="SUBSCRIPTIONS_PER_CONNECTION_MAX"):
        decode_message(msgpack.packb({"id": 1, "cursors": cursors, "_tag": "Ping"}))
