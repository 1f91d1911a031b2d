"""Entries that are asked for by id: only from a server that offers it, and only what was asked for."""

from __future__ import annotations

import pytest

from agentlayers.errors import LimitExceededError, LocalProtocolError, MalformedMessageError, UnexpectedMessageError
from agentlayers.limits import CHUNK_BYTES, FETCH_ENTRIES_MAX, FETCHES_IN_FLIGHT_MAX
from agentlayers.protocol.client_session import ClientSession
from agentlayers.protocol.codec import decode_message, encode_message
from agentlayers.protocol.events import EntriesFetched, FetchRequested, SessionFailed
from agentlayers.protocol.messages import (
    CAPABILITY_FETCH,
    Extensions,
    FetchedEntries,
    FetchEntries,
    Hello,
    Message,
    RemoteEncryptedEntry,
)
from agentlayers.protocol.server_session import ServerSession
from unit.protocol.session_pair import KEY, REMOTE, deliver, opened

OURS = Hello(REMOTE, Extensions(1, frozenset({CAPABILITY_FETCH}), bytes(16), "default"))
IDS = tuple(number.to_bytes(16) for number in range(4))


def stored(number: int, size: int = 20) -> RemoteEncryptedEntry:
    return RemoteEncryptedEntry(number, bytes(12), IDS[number], bytes(size))


def talking() -> tuple[ClientSession, ServerSession]:
    client, server = ClientSession(is_stream=False), ServerSession(is_stream=False, hello=OURS)
    deliver(server, client)
    return client, server


@pytest.mark.parametrize(
    "message",
    [
        FetchEntries(3, KEY, IDS),
        FetchedEntries(3, (), 4),
        FetchedEntries(2**40, (stored(1), stored(3)), 4),
    ],
)
def test_what_is_written_is_read_back(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


def test_an_answer_says_what_is_left_to_ask_for() -> None:
    client, server = talking()
    message_id = client.fetch_entries(KEY, IDS)

    assert deliver(client, server) == [FetchRequested(message_id, KEY, IDS)]
    server.send_fetched(message_id, [stored(0), stored(2)], 3)
    assert deliver(server, client) == [EntriesFetched(message_id, KEY, (stored(0), stored(2)), IDS[3:])]


def test_a_long_answer_is_cut_and_put_together() -> None:
    client, server = talking()
    message_id = client.fetch_entries(KEY, IDS[:1])
    deliver(client, server)
    server.send_fetched(message_id, [stored(0, 3 * CHUNK_BYTES)], 1)
    frames = server.data_to_send()
    for frame in frames:
        client.receive_data(frame)

    assert len(frames) > 2
    assert client.events_received() == [EntriesFetched(message_id, KEY, (stored(0, 3 * CHUNK_BYTES),), ())]


def test_an_entry_that_was_not_asked_for_ends_the_session() -> None:
    client, server = talking()
    message_id = client.fetch_entries(KEY, IDS[:2])
    deliver(client, server)
    server.send_fetched(message_id, [stored(1)], 1)  # the second of two, in an answer about the first
    (event,) = deliver(server, client)

    assert isinstance(event, SessionFailed)
    assert isinstance(event.error, UnexpectedMessageError)


def test_an_answer_to_nothing_is_ignored() -> None:
    client, server = talking()
    server.send_fetched(99, [stored(1)], 1)

    assert deliver(server, client) == []
    assert client.ignored_messages == 1


def test_a_server_that_does_not_offer_it_is_not_asked() -> None:
    for stock in (True, False):
        client, _server = opened(stock=stock)
        assert not client.fetches
        with pytest.raises(LocalProtocolError, match="does not offer"):
            client.fetch_entries(KEY, IDS)


@pytest.mark.parametrize("count", [0, FETCH_ENTRIES_MAX + 1])
def test_so_many_at_once_are_not_asked_for(count: int) -> None:
    client, _server = talking()
    with pytest.raises(LocalProtocolError, match=str(FETCH_ENTRIES_MAX)):
        client.fetch_entries(KEY, [bytes(16)] * count)


def test_questions_without_an_answer_are_bounded_on_both_sides() -> None:
    client, server = talking()
    for _ in range(FETCHES_IN_FLIGHT_MAX):
        last = client.fetch_entries(KEY, IDS)
    deliver(client, server)
    with pytest.raises(LocalProtocolError, match="too many"):
        client.fetch_entries(KEY, IDS)
    server.receive_data(encode_message(FetchEntries(1000, KEY, IDS)))
    (event,) = server.events_received()

    assert isinstance(event, SessionFailed)
    assert isinstance(event.error, LimitExceededError)
    assert last == FETCHES_IN_FLIGHT_MAX - 1


def test_an_answer_makes_room_for_a_question() -> None:
    client, server = talking()
    for _ in range(3 * FETCHES_IN_FLIGHT_MAX):
        message_id = client.fetch_entries(KEY, IDS)
        deliver(client, server)
        server.send_fetched(message_id, [], len(IDS))
        deliver(server, client)

    assert client.can_fetch_now


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (FetchEntries(1, KEY, ()), LimitExceededError),
        (FetchEntries(1, KEY, [bytes(16)] * (FETCH_ENTRIES_MAX + 1)), LimitExceededError),
        (FetchedEntries(1, (stored(1), stored(2)), 1), MalformedMessageError),
        (FetchedEntries(1, (), 0), MalformedMessageError),
    ],
)
def test_what_makes_no_sense_is_refused(message: Message, error: type[Exception]) -> None:
    with pytest.raises(error):
        decode_message(encode_message(message))
