"""The server's side: what it makes of what arrives, what it sends, what it refuses."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from agentlayers.errors import (
    AgentLayersError,
    AuthenticationError,
    LimitExceededError,
    LocalProtocolError,
    MalformedMessageError,
    UnexpectedMessageError,
)
from agentlayers.limits import CHUNK_BYTES, FRAME_BYTES_MAX, SUBSCRIPTIONS_PER_CONNECTION_MAX
from agentlayers.protocol.codec import decode_message, encode_message
from agentlayers.protocol.events import (
    AuthenticateReceived,
    ChangesRequested,
    ChangesStopped,
    SessionFailed,
    WriteReceived,
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
from agentlayers.protocol.server_session import ServerSession, encode_changes_frames
from agentlayers.protocol.session import SessionState
from unit.protocol.session_pair import KEY, STOCK_HELLO, entry, hello

CHANGE = RemoteEncryptedEntry(0, bytes(12), bytes(16), b"sealed")
AUTHENTICATE = Authenticate("t", "very-secret")


def received(session: ServerSession, *messages: Message) -> list[Any]:
    for message in messages:
        session.receive_data(encode_message(message, entry_nonces=True))
    return list(session.events_received())


def sent(session: ServerSession) -> list[Message]:
    return [decode_message(data) for data in session.data_to_send()]


def opened(*, is_stream: bool = False) -> ServerSession:
    session = ServerSession(is_stream=is_stream, hello=hello())
    session.data_to_send()
    return session


def test_hello_is_sent_at_once() -> None:
    session = ServerSession(is_stream=False, hello=STOCK_HELLO)

    assert sent(session) == [STOCK_HELLO]
    assert session.state is SessionState.OPEN


def test_requests_are_reported() -> None:
    session = opened()

    events = received(
        session,
        RequestChanges(KEY, 3),
        RequestChanges(KEY, 5),
        WriteEntries(KEY, 0, (entry(1), entry(2))),
        StopChanges(KEY),
        StopChanges(KEY),
    )

    assert events == [
        ChangesRequested(KEY, 3),
        ChangesRequested(KEY, 5),
        WriteReceived(0, KEY, (entry(1), entry(2))),
        ChangesStopped(KEY),
    ]
    assert session.ignored_messages == 1
    assert session.following == frozenset()


def test_a_stock_batch_under_one_nonce_is_read() -> None:
    session = opened()
    iv = entry(1).iv
    entries = (entry(1), entry(2)._replace(iv=iv))
    session.receive_data(encode_message(WriteEntries(KEY, 0, entries)))

    assert session.events_received() == [WriteReceived(0, KEY, entries)]


def test_pings_are_answered_by_the_session_itself() -> None:
    session = opened()

    assert received(session, Ping(4), Ping(5)) == []
    assert sent(session) == [Pong(4), Pong(5)]


def test_acks_and_changes_are_sent_with_and_without_our_fields() -> None:
    session = opened()
    received(session, RequestChanges(KEY, 0))
    session.send_ack(1, [4, 5], None)
    session.send_ack(2, [6], 7)
    session.send_changes(KEY, [CHANGE], 8)

    assert sent(session) == [Ack(1, (4, 5)), Ack(2, (6,), 7), Changes(KEY, (CHANGE,), 8)]


def test_C3_changes_are_only_sent_for_keys_the_client_follows_now() -> None:  # noqa: N802
    session = opened()
    frames = encode_changes_frames(KEY, [CHANGE], 1, itertools.count().__next__)

    session.send_changes(KEY, [CHANGE], 1)
    session.send_encoded(frames, public_key=KEY)
    received(session, RequestChanges(KEY, 0), StopChanges(KEY))
    session.send_changes(KEY, [CHANGE], 1)

    assert session.data_to_send() == []


def test_changes_are_encoded_once_for_all_subscribers() -> None:
    count = itertools.count(7)
    frames = encode_changes_frames(KEY, [CHANGE], 1, count.__next__)
    sessions = [opened(), opened()]
    for session in sessions:
        received(session, RequestChanges(KEY, 0))
        session.send_encoded(frames, public_key=KEY)

    assert [session.data_to_send() for session in sessions] == [frames, frames]
    assert next(count) == 7


def test_long_changes_are_cut_under_the_callers_chunk_id() -> None:
    large = CHANGE._replace(ciphertext=bytes(CHUNK_BYTES))
    count = itertools.count(7)
    frames = encode_changes_frames(KEY, [large], None, count.__next__)

    assert [decode_message(frame).id for frame in frames] == [7, 7]  # type: ignore[union-attr]
    assert next(count) == 8
    session = opened()
    received(session, RequestChanges(KEY, 0))
    session.send_changes(KEY, [large], None)
    assert len(session.data_to_send()) == 2


def test_an_ack_is_never_cut_however_long() -> None:
    session = opened()
    session.send_ack(1, range(2**33, 2**33 + 100_000), None)

    (frame,) = session.data_to_send()
    assert CHUNK_BYTES < len(frame) < FRAME_BYTES_MAX


def test_subscriptions_are_bounded() -> None:
    session = opened()
    keys = [f"k{number}" for number in range(SUBSCRIPTIONS_PER_CONNECTION_MAX)]

    received(session, *(RequestChanges(key, 0) for key in keys), RequestChanges(keys[0], 1))
    assert session.state is SessionState.OPEN
    received(session, RequestChanges("one more", 0))
    assert isinstance(session.error, LimitExceededError)


@pytest.mark.parametrize(
    "message",
    [Hello(bytes(16)), Ack(0, ()), Changes(KEY, ()), Pong(1), Rejected("x"), AUTHENTICATE],
    ids=repr,
)
def test_what_no_client_may_send_fails_the_session(message: Message) -> None:
    session = opened()

    (event,) = received(session, message)

    assert isinstance(event, SessionFailed)
    assert isinstance(event.error, UnexpectedMessageError)
    assert session.data_to_send() == []


@pytest.mark.parametrize("inner", [Ping(9), RequestChanges(KEY, 1), WriteEntries(KEY, 0, (entry(1),))])
def test_a_chunk_may_hold_any_request(inner: Message) -> None:
    session = opened()
    data = encode_message(inner)

    events = received(session, ChunkedMessage(0, 1, 2, data[5:]), ChunkedMessage(0, 0, 2, data[:5]))

    assert len(events) + len(session.data_to_send()) == 1


def test_C1_chunks_of_two_connections_with_the_same_id_do_not_meet() -> None:  # noqa: N802
    sessions = [opened(), opened()]
    datas = [encode_message(WriteEntries(KEY, 0, (entry(number, 900),))) for number in (1, 2)]

    for part in (0, 1):
        for session, data in zip(sessions, datas, strict=True):
            piece = data[:500] if part == 0 else data[500:]
            received_now = received(session, ChunkedMessage(0, part, 2, piece))
            assert len(received_now) == part


def test_W6_hostile_chunks_cost_no_memory() -> None:  # noqa: N802
    session = opened()
    received(session, ChunkedMessage(0, 0, 4_294_967_295, b"x"))
    assert isinstance(session.error, LimitExceededError)

    session = opened()
    for number in range(1000):
        received(session, ChunkedMessage(number, 0, 2, bytes(1000)))
    assert isinstance(session.error, LimitExceededError)
    assert session.buffered_bytes == 0


def test_W6_a_repeated_chunk_does_no_harm() -> None:  # noqa: N802
    session = opened()
    data = encode_message(Ping(1))
    chunk = ChunkedMessage(0, 0, 2, data[:5])

    received(session, chunk, chunk, ChunkedMessage(0, 1, 2, data[5:]))

    assert sent(session) == [Pong(1)]


@pytest.mark.parametrize("size", [1, 5, 17, 1000])
def test_W7_messages_that_arrive_together_or_in_pieces_are_each_read_once(size: int) -> None:  # noqa: N802
    session = opened(is_stream=True)
    stream = b"".join(encode_message(Ping(number)) for number in range(5))

    for start in range(0, len(stream), size):
        session.receive_data(stream[start : start + size])

    assert sent(session) == [Pong(number) for number in range(5)]


def test_W4_each_key_of_a_connection_is_followed_from_its_own_position() -> None:  # noqa: N802
    session = opened()

    events = received(session, RequestChanges("a", 5), WriteEntries("a", 0, (entry(1),)), RequestChanges("b", 0))

    assert [events[0], events[2]] == [ChangesRequested("a", 5), ChangesRequested("b", 0)]
    session.send_changes("a", [CHANGE._replace(sequence=9)], 10)
    session.send_changes("b", [CHANGE], 1)
    assert [message.through for message in sent(session)] == [10, 1]  # type: ignore[union-attr]


def test_the_end_of_the_connection_closes_the_session_quietly() -> None:
    session = opened(is_stream=True)
    received(session, RequestChanges(KEY, 0))
    session.receive_data(b"\xde")
    session.receive_eof()

    assert session.state is SessionState.CLOSED
    assert session.events_received() == []
    session.send_changes(KEY, [CHANGE], 1)
    session.send_ack(0, [], None)
    assert session.data_to_send() == []


# -- authentication before Hello ----------------------------------------------------------------------


def test_without_a_hello_the_client_has_to_authenticate_first() -> None:
    session = ServerSession(is_stream=True, hello=None)

    assert session.data_to_send() == []
    assert received(session, AUTHENTICATE) == [AuthenticateReceived("t", "very-secret")]
    session.accept(hello("t"))
    assert sent(session) == [hello("t")]
    assert received(session, RequestChanges(KEY, 0)) == [ChangesRequested(KEY, 0)]


@pytest.mark.parametrize("message", [Ping(1), ChunkedMessage(0, 0, 1, b"x"), WriteEntries(KEY, 0, ())])
def test_anything_else_first_fails_without_being_acted_on(message: Message) -> None:
    session = ServerSession(is_stream=True, hello=None)

    (event,) = received(session, message)

    assert isinstance(event.error, UnexpectedMessageError)
    assert session.data_to_send() == []


def test_requests_sent_before_the_token_was_checked_wait_for_it() -> None:
    session = ServerSession(is_stream=True, hello=None)

    events = received(session, AUTHENTICATE, RequestChanges(KEY, 0), Ping(1))
    assert [type(event) for event in events] == [AuthenticateReceived]
    assert session.data_to_send() == []
    session.accept(hello("t"))

    assert sent(session) == [hello("t"), Pong(1)]
    assert session.events_received() == [ChangesRequested(KEY, 0)]


def test_what_waits_for_the_token_is_bounded() -> None:
    session = ServerSession(is_stream=True, hello=None)
    received(session, AUTHENTICATE)
    write = WriteEntries(KEY, 0, (entry(1, FRAME_BYTES_MAX // 3),))

    received(session, write, write, write)

    assert isinstance(session.error, LimitExceededError)


def test_an_open_server_greets_at_once_and_still_lets_a_client_authenticate() -> None:
    session = ServerSession(is_stream=True, hello=hello("default"))

    assert received(session, AUTHENTICATE) == [AuthenticateReceived("t", "very-secret")]
    states = [session.state]
    session.accept(hello("t"))
    states.append(session.state)

    assert sent(session) == [hello("default"), hello("t")]
    assert states == [SessionState.AUTHENTICATING, SessionState.OPEN]


@pytest.mark.parametrize("first", [Ping(1), AUTHENTICATE])
def test_authentication_comes_first_or_never(first: Message) -> None:
    session = ServerSession(is_stream=True, hello=hello("default"))
    received(session, first)
    if first is AUTHENTICATE:
        session.accept(hello("t"))

    (event,) = received(session, AUTHENTICATE)

    assert isinstance(event.error, UnexpectedMessageError)
    assert "very-secret" not in str(event.error)


def test_a_rejected_client_is_told_the_code_and_nothing_else() -> None:
    session = ServerSession(is_stream=True, hello=None)
    received(session, AUTHENTICATE)
    session.reject(AuthenticationError("token very-secret is not the one in tokens.txt"))

    assert sent(session) == [Rejected("authentication")]
    assert session.state is SessionState.FAILED
    assert isinstance(session.error, AuthenticationError)
    assert session.events_received() == []
    assert received(session, Ping(1)) == []


def test_a_client_that_did_not_authenticate_is_never_sent_a_message_it_may_not_know() -> None:
    session = opened(is_stream=True)
    session.reject(LimitExceededError(limit="OUTBOX_BYTES_MAX", allowed=1, declared=2))

    assert session.data_to_send() == []


def test_a_client_that_authenticated_learns_why_the_session_failed() -> None:
    session = ServerSession(is_stream=True, hello=None)
    received(session, AUTHENTICATE)
    session.accept(hello("t"))
    session.receive_data(b"\xc1")

    assert sent(session) == [Rejected("malformed_message")]
    assert isinstance(session.error, MalformedMessageError)


def test_accept_is_refused_when_nobody_asked() -> None:
    with pytest.raises(LocalProtocolError, match="cannot accept"):
        opened().accept(hello())


def test_rejecting_twice_keeps_the_first_reason() -> None:
    session = opened()
    first = AgentLayersError("first")
    session.reject(first)
    session.reject(AgentLayersError("second"))

    assert session.error is first


def test_the_token_never_shows() -> None:
    assert "very-secret" not in repr(AuthenticateReceived("t", "very-secret"))
