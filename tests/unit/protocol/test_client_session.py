"""The client's side: what it sends, what it makes of what arrives, what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from agentlayers.errors import (
    AuthenticationError,
    AuthorizationError,
    LimitExceededError,
    LocalProtocolError,
    MalformedMessageError,
    RemoteProtocolError,
    UnexpectedMessageError,
    VersionMismatchError,
)
from agentlayers.limits import (
    CHUNK_BYTES,
    ENTRIES_PER_MESSAGE_MAX,
    FRAME_BYTES_MAX,
    SUBSCRIPTIONS_PER_CONNECTION_MAX,
)
from agentlayers.protocol.client_session import ClientSession
from agentlayers.protocol.codec import decode_message, encode_message
from agentlayers.protocol.events import (
    AckReceived,
    ChangesReceived,
    HelloReceived,
    PongReceived,
    SessionFailed,
)
from agentlayers.protocol.messages import (
    Ack,
    Authenticate,
    Changes,
    ChunkedMessage,
    Hello,
    Message,
    Ping,
    Pong,
    Rejected,
    RemoteEncryptedEntry,
    RequestChanges,
    StopChanges,
    WriteEntries,
)
from agentlayers.protocol.session import SessionState
from unit.protocol.session_pair import KEY, REMOTE, STOCK_HELLO, deliver, entry, hello, opened
from vectors.effect_v3 import VECTORS

CHANGE = RemoteEncryptedEntry(0, bytes(12), bytes(16), b"sealed")


def received(session: ClientSession, *messages: Message) -> list[Any]:
    for message in messages:
        session.receive_data(encode_message(message))
    return list(session.events_received())


def sent(session: ClientSession) -> list[Message]:
    return [decode_message(data) for data in session.data_to_send()]


def failed(session: ClientSession, *messages: Message) -> Exception:
    events = received(session, *messages)
    assert isinstance(events[-1], SessionFailed)
    assert session.error is events[-1].error
    assert session.state is SessionState.FAILED
    return events[-1].error


def test_a_hello_of_ours_opens_the_session() -> None:
    session = ClientSession(is_stream=False)

    assert received(session, hello()) == [HelloReceived(REMOTE, hello().extensions)]
    assert (session.state, session.is_stock) == (SessionState.OPEN, False)
    assert session.accepts_entry_nonces
    assert (session.remote_id, session.extensions) == (REMOTE, hello().extensions)
    assert session.data_to_send() == []


def test_a_stock_hello_opens_the_session() -> None:
    session = ClientSession(is_stream=False)

    assert received(session, STOCK_HELLO) == [HelloReceived(REMOTE, None)]
    assert session.is_stock
    assert not session.accepts_entry_nonces


def test_nothing_can_be_asked_before_the_hello() -> None:
    session = ClientSession(is_stream=False)

    for command in (
        lambda: session.request_changes(KEY, 0),
        lambda: session.stop_changes(KEY),
        lambda: session.write_entries(KEY, [entry(1)]),
        session.ping,
    ):
        with pytest.raises(LocalProtocolError, match="awaiting_hello, not open"):
            command()
    assert not session.is_stock


def test_changes_of_a_followed_key_are_reported() -> None:
    client, _ = opened()
    client.request_changes(KEY, 7)

    assert sent(client) == [RequestChanges(KEY, 7)]
    assert received(client, Changes(KEY, (CHANGE,), 1)) == [ChangesReceived(KEY, (CHANGE,), 1)]


def test_W20_changes_of_a_key_nobody_asked_for_are_ignored_and_counted() -> None:  # noqa: N802
    client, _ = opened()
    client.request_changes(KEY, 0)

    assert received(client, Changes("other", (CHANGE,))) == []
    assert client.ignored_messages == 1
    assert client.state is SessionState.OPEN
    assert received(client, Changes(KEY, (CHANGE,))) == [ChangesReceived(KEY, (CHANGE,), None)]


def test_changes_under_way_when_following_stops_are_ignored() -> None:
    client, _ = opened()
    client.request_changes(KEY, 0)
    client.stop_changes(KEY)

    assert sent(client) == [RequestChanges(KEY, 0), StopChanges(KEY)]
    assert received(client, Changes(KEY, (CHANGE,))) == []
    with pytest.raises(LocalProtocolError, match="not followed"):
        client.stop_changes(KEY)


def test_acks_are_matched_to_their_writes_in_any_order() -> None:
    client, _ = opened()
    first = client.write_entries(KEY, [entry(1), entry(2)])
    second = client.write_entries("other", [entry(3)])

    events = received(client, Ack(second, (9,), 10), Ack(first, (4, 2)))

    assert events == [
        AckReceived(second, "other", (entry(3).entry_id,), (9,), 10),
        AckReceived(first, KEY, (entry(1).entry_id, entry(2).entry_id), (4, 2), None),
    ]
    assert client.unacknowledged == 0


def test_an_ack_of_nothing_in_flight_is_ignored() -> None:
    client, _ = opened()
    message_id = client.write_entries(KEY, [entry(1)])

    assert received(client, Ack(message_id + 1, (0,)), Ack(message_id, (0,))) != []
    assert received(client, Ack(message_id, (0,))) == []
    assert client.ignored_messages == 2


def test_W2_an_ack_that_is_not_aligned_is_never_taken_for_one_that_is() -> None:  # noqa: N802
    """Our server acknowledges each entry; one that does not has lost track."""
    client, _ = opened()
    message_id = client.write_entries(KEY, [entry(1), entry(2), entry(3)])

    error = failed(client, Ack(message_id, (2,)))

    assert isinstance(error, MalformedMessageError)
    assert "1 for a write of 3 entries" in str(error)


def test_W2_a_stock_ack_that_leaves_a_duplicate_out_is_handed_on_raw() -> None:  # noqa: N802
    client, _ = opened(stock=True)
    message_id = client.write_entries(KEY, [entry(1)])

    assert received(client, Ack(message_id, ())) == [AckReceived(message_id, KEY, (entry(1).entry_id,), (), None)]


def test_more_numbers_than_entries_are_malformed_from_anyone() -> None:
    client, _ = opened(stock=True)
    message_id = client.write_entries(KEY, [entry(1)])

    assert isinstance(failed(client, Ack(message_id, (1, 2))), MalformedMessageError)


def test_message_ids_count_from_zero_on_each_connection() -> None:
    client, _ = opened()

    assert [client.write_entries(KEY, []), client.write_entries(KEY, [entry(1)])] == [0, 1]
    assert [message.id for message in sent(client)] == [0, 1]  # type: ignore[union-attr]


def test_pongs_are_matched_to_pings() -> None:
    client, _ = opened()

    assert (client.ping(), client.ping()) == (1, 2)
    assert sent(client) == [Ping(1), Ping(2)]
    assert received(client, Pong(2), Pong(7), Pong(2), Pong(1)) == [PongReceived(2), PongReceived(1)]
    assert client.ignored_messages == 2


def test_a_batch_carries_a_nonce_for_each_entry_to_a_server_that_reads_them() -> None:
    client, _ = opened()
    client.write_entries(KEY, [entry(1), entry(2)])

    (message,) = sent(client)

    assert isinstance(message, WriteEntries)
    assert message.entries == (entry(1), entry(2))


def test_W1_a_stock_server_is_never_sent_two_entries_under_one_nonce() -> None:  # noqa: N802
    client, _ = opened(stock=True)

    with pytest.raises(LocalProtocolError, match="one nonce per message"):
        client.write_entries(KEY, [entry(1), entry(2)])
    client.write_entries(KEY, [entry(1)])
    client.write_entries(KEY, [entry(2)])
    assert [message.iv for message in sent(client)] == [entry(1).iv, entry(2).iv]  # type: ignore[union-attr]


def test_W4_a_stock_connection_is_used_for_one_public_key_only() -> None:  # noqa: N802
    client, _ = opened(stock=True)
    client.request_changes(KEY, 0)

    with pytest.raises(LocalProtocolError, match="a connection of its own"):
        client.request_changes("other", 0)
    with pytest.raises(LocalProtocolError, match="a connection of its own"):
        client.write_entries("other", [entry(1)])
    client.request_changes(KEY, 3)


def test_a_stock_server_is_never_sent_an_id_that_makes_it_hang_up() -> None:
    client, _ = opened(stock=True)

    with pytest.raises(LocalProtocolError, match="no UUID"):
        client.write_entries(KEY, [entry(1)._replace(entry_id=bytes(16))])
    for case in VECTORS["uuid7"]["stringifyRejects"]:
        if "error" in case:
            with pytest.raises(LocalProtocolError, match="no UUID"):
                client.write_entries(KEY, [entry(1)._replace(entry_id=bytes.fromhex(case["idHex"]))])


def test_a_long_write_is_cut_into_chunks_with_its_message_id() -> None:
    client, _ = opened()
    client.write_entries(KEY, [])
    message_id = client.write_entries(KEY, [entry(1, CHUNK_BYTES), entry(2, CHUNK_BYTES)])

    _, *chunks = sent(client)

    assert [(chunk.id, chunk.index, chunk.total) for chunk in chunks] == [  # type: ignore[union-attr]
        (message_id, index, 3) for index in range(3)
    ]


@pytest.mark.parametrize("key", ["", "k" * 257, "é" * 129, "\ud83d"])
def test_a_public_key_that_no_server_takes_is_refused(key: str) -> None:
    client, _ = opened()

    with pytest.raises(LocalProtocolError):
        client.request_changes(key, 0)
    with pytest.raises(LocalProtocolError):
        client.write_entries(key, [entry(1)])
    assert client.data_to_send() == []


def test_subscriptions_and_entries_are_bounded() -> None:
    client, _ = opened()
    for number in range(SUBSCRIPTIONS_PER_CONNECTION_MAX):
        client.request_changes(f"k{number}", 0)

    client.request_changes("k0", 5)
    with pytest.raises(LocalProtocolError, match="are followed already"):
        client.request_changes("one more", 0)
    with pytest.raises(LocalProtocolError, match="at once"):
        client.write_entries(KEY, [entry(1)] * (ENTRIES_PER_MESSAGE_MAX + 1))


def test_a_refused_write_leaves_nothing_behind() -> None:
    client, _ = opened()

    with pytest.raises(LocalProtocolError):
        client.write_entries(KEY, [entry(1)._replace(iv=b"short")])

    assert client.data_to_send() == []
    assert client.unacknowledged == 0
    assert client.write_entries(KEY, [entry(1)]) == 0


def test_authenticate_is_sent_before_anything_else() -> None:
    session = ClientSession(is_stream=True, authenticate=Authenticate("t", "token"))

    assert sent(session) == [Authenticate("t", "token")]


def test_hellos_of_other_tenants_are_ignored_until_the_right_one() -> None:
    session = ClientSession(is_stream=True, authenticate=Authenticate("t", "token"))

    assert received(session, hello("default"), STOCK_HELLO) == []
    assert session.state is SessionState.AWAITING_HELLO
    assert received(session, hello("t")) == [HelloReceived(REMOTE, hello("t").extensions)]
    assert session.ignored_messages == 2


def test_a_second_hello_of_the_same_server_changes_nothing() -> None:
    client, _ = opened()

    assert received(client, hello()) == []
    assert client.state is SessionState.OPEN
    assert isinstance(failed(client, Hello(bytes(16))), UnexpectedMessageError)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("authentication", AuthenticationError),
        ("authorization", AuthorizationError),
        ("limit_exceeded", RemoteProtocolError),
        ("something later", RemoteProtocolError),
    ],
)
def test_a_rejection_ends_the_session_with_the_error_it_names(code: str, error: type[Exception]) -> None:
    session = ClientSession(is_stream=True, authenticate=Authenticate("t", "secret-token"))

    raised = failed(session, Rejected(code))

    assert isinstance(raised, error)
    assert "secret-token" not in str(raised)


@pytest.mark.parametrize(
    "message", [Changes(KEY, ()), Ack(0, ()), Pong(1), ChunkedMessage(0, 0, 1, b""), Ping(1)], ids=repr
)
def test_nothing_but_a_hello_may_come_first(message: Message) -> None:
    assert isinstance(failed(ClientSession(is_stream=False), message), UnexpectedMessageError)


@pytest.mark.parametrize(
    "message",
    [
        Ping(1),
        RequestChanges(KEY, 0),
        StopChanges(KEY),
        WriteEntries(KEY, 0, ()),
        Authenticate("t", "x"),
    ],
    ids=repr,
)
def test_a_clients_message_from_a_server_is_unexpected(message: Message) -> None:
    client, _ = opened()

    assert isinstance(failed(client, message), UnexpectedMessageError)


def test_a_chunked_message_acts_as_the_message_it_holds() -> None:
    client, _ = opened()
    client.request_changes(KEY, 0)
    data = encode_message(Changes(KEY, (CHANGE,), 1))

    assert received(client, ChunkedMessage(4, 1, 2, data[9:])) == []
    assert client.buffered_bytes == len(data) - 9
    assert received(client, ChunkedMessage(4, 0, 2, data[:9])) == [ChangesReceived(KEY, (CHANGE,), 1)]


def test_a_chunk_inside_a_chunk_is_malformed() -> None:
    client, _ = opened()
    inner = encode_message(ChunkedMessage(1, 0, 1, b""))

    assert isinstance(failed(client, ChunkedMessage(1, 0, 1, inner)), MalformedMessageError)


def test_garbage_fails_the_session_and_what_follows_is_ignored() -> None:
    client, _ = opened()
    client.request_changes(KEY, 0)
    client.receive_data(b"\xc1garbage")
    client.receive_data(encode_message(Changes(KEY, (CHANGE,))))

    assert [type(event) for event in client.events_received()] == [SessionFailed]
    assert client.data_to_send() == []
    with pytest.raises(LocalProtocolError, match="failed, not open"):
        client.ping()


def test_what_came_before_the_garbage_is_reported() -> None:
    client, _ = opened(is_stream=True)
    client.request_changes(KEY, 0)
    client.receive_data(encode_message(Changes(KEY, (CHANGE,))) + b"\xc1")

    assert [type(event) for event in client.events_received()] == [ChangesReceived, SessionFailed]


def test_a_frame_over_the_bound_is_refused_unread() -> None:
    client, _ = opened()
    client.receive_data(bytes(FRAME_BYTES_MAX + 1))

    assert isinstance(client.error, LimitExceededError)


def test_a_later_version_of_the_extensions_is_refused_with_its_number() -> None:
    session = ClientSession(is_stream=False)
    session.receive_data(encode_message(hello()).replace(b"\xa7version\x01", b"\xa7version\x02"))

    assert isinstance(session.error, VersionMismatchError)
    assert "2" in str(session.error)


def test_the_end_of_the_connection_closes_the_session_quietly() -> None:
    client, _ = opened(is_stream=True)
    client.receive_data(b"\xde\x00")
    client.receive_eof()

    assert client.state is SessionState.CLOSED
    assert client.events_received() == []
    assert client.buffered_bytes == 0
    client.receive_data(b"\xc1")
    assert client.error is None
    with pytest.raises(LocalProtocolError, match="closed, not open"):
        client.ping()


def test_both_sides_understand_each_other() -> None:
    client, server = opened(is_stream=True)
    client.request_changes(KEY, 0)
    message_id = client.write_entries(KEY, [entry(1), entry(2)])

    assert len(deliver(client, server)) == 2
    server.send_ack(message_id, [0, 1], 2)
    assert [type(event) for event in deliver(server, client)] == [AckReceived]
