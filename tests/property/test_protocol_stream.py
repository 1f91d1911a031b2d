"""However a conversation is cut, chunked or interleaved, both sides make the same of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentlayers.protocol.chunking import Reassembler, split_message
from agentlayers.protocol.client_session import ClientSession
from agentlayers.protocol.codec import decode_message, encode_message
from agentlayers.protocol.events import AckReceived, ChangesReceived
from agentlayers.protocol.messages import (
    Ack,
    Authenticate,
    Changes,
    ChunkedMessage,
    Credit,
    EncryptedEntry,
    FetchedEntries,
    FetchEntries,
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
from unit.protocol.session_pair import KEY, entry, hello, opened

keys = st.sampled_from(["a", "key-é"])
numbers = st.integers(0, 3) | st.integers(0, 2**53)
sequences = st.integers(0, 3) | st.integers(0, 2**53 - 1)
ids, ivs = st.binary(min_size=16, max_size=16), st.binary(min_size=12, max_size=12)
ciphertexts = st.binary(max_size=40)
sent_entries = st.lists(st.builds(EncryptedEntry, ids, ivs, ciphertexts), max_size=4).map(tuple)
got_entries = st.lists(st.builds(RemoteEncryptedEntry, sequences, ivs, ids, ciphertexts), max_size=4).map(tuple)
through = st.none() | numbers
requests: st.SearchStrategy[Message] = st.one_of(
    st.builds(RequestChanges, keys, numbers, st.none() | numbers),
    st.builds(Credit, keys, st.integers(1, 2**31)),
    st.builds(Ping, numbers, st.none() | st.dictionaries(keys, numbers)),
    st.builds(FetchEntries, numbers, keys, st.lists(ids, min_size=1, max_size=3).map(tuple)),
    st.builds(StopChanges, keys),
    st.builds(WriteEntries, keys, numbers, sent_entries),
    st.builds(Ping, numbers),
)
responses: st.SearchStrategy[Message] = st.one_of(
    st.builds(Ack, numbers, st.lists(sequences, max_size=4).map(tuple), through),
    st.builds(Changes, keys, got_entries, through),
    st.builds(Pong, numbers),
    st.builds(FetchedEntries, numbers, got_entries, st.integers(4, 6)),
    st.builds(Rejected, keys),
    st.builds(Authenticate, keys, keys),
    st.builds(ChunkedMessage, numbers, numbers, numbers, ciphertexts),
)


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]


def outcome(session: ClientSession | ServerSession) -> tuple[Any, ...]:
    events = [repr(event) for event in session.events_received()]  # an account is equal to itself only
    return events, session.data_to_send(), session.state, session.ignored_messages


@given(requests | responses)
def test_every_message_is_read_back_as_it_was(message: Message) -> None:
    read = decode_message(encode_message(message, entry_nonces=True))

    if isinstance(message, WriteEntries):
        assert isinstance(read, WriteEntries)
        assert (read.public_key, read.id, read.entries) == (
            message.public_key,
            message.id,
            message.entries,
        )
    else:
        assert read == message


@given(st.lists(requests, max_size=6), st.lists(st.integers(0, 60), max_size=30))
def test_any_cut_of_the_stream_to_a_server_gives_the_same_events(messages: list[Message], sizes: list[int]) -> None:
    frames = [encode_message(message, entry_nonces=True) for message in messages]
    by_frame = ServerSession(is_stream=False, hello=hello())
    by_cut = ServerSession(is_stream=True, hello=hello())

    for frame in frames:
        by_frame.receive_data(frame)
    for piece in cut(b"".join(frames), sizes):
        by_cut.receive_data(piece)

    assert outcome(by_frame) == outcome(by_cut)


@given(st.lists(responses, max_size=6), st.lists(st.integers(0, 60), max_size=30))
def test_any_cut_of_the_stream_to_a_client_gives_the_same_events(messages: list[Message], sizes: list[int]) -> None:
    """Also where a message fails the session: the same one does, after the same events."""
    frames = [encode_message(message) for message in (hello(), *messages)]
    outcomes = []
    for is_stream, pieces in ((False, frames), (True, cut(b"".join(frames), sizes))):
        client = ClientSession(is_stream=is_stream)
        for number, piece in enumerate(pieces):
            client.receive_data(piece)
            if number == 0 and not is_stream:
                client.data_to_send()
        events, _, state, ignored = outcome(client)
        outcomes.append((events, state, ignored))

    assert outcomes[0] == outcomes[1]


@given(st.data(), st.binary(min_size=1, max_size=60), st.integers(1, 12))
def test_chunks_in_any_order_and_repeated_give_the_message(
    data: st.DataObject, content: bytes, chunk_bytes: int
) -> None:
    frames = split_message(content, 5, chunk_bytes=chunk_bytes)
    if len(frames) == 1:
        assert frames == [content]
        return
    chunks = [decode_message(frame) for frame in frames]
    order = data.draw(st.permutations(chunks))
    again = data.draw(st.lists(st.sampled_from(order[:-1]), max_size=3))
    repeated = [dataclasses.replace(chunk, data=b"another") for chunk in again]  # type: ignore[arg-type]
    reassembler = Reassembler()

    results = [reassembler.add(chunk) for chunk in (*order[:-1], *repeated, order[-1])]  # type: ignore[arg-type]

    assert results == [None] * (len(results) - 1) + [content]
    assert reassembler.pending_bytes == 0


steps = st.lists(st.tuples(st.sampled_from(["write", "changes", "ack"]), st.sampled_from(["a", "b"])), max_size=30)


@given(steps)
def test_two_keys_on_one_connection_do_not_touch_each_other(plan: list[tuple[str, str]]) -> None:
    """W4: each key keeps its own sequences, whatever happens to the other in between."""
    client, server = opened(is_stream=True)
    for key in ("a", "b"):
        client.request_changes(key, 0)
    unacknowledged: dict[str, list[tuple[int, bytes]]] = {"a": [], "b": []}
    heads = {"a": 0, "b": 0}
    expected: dict[str, list[Any]] = {"a": [], "b": []}
    for number, (step, key) in enumerate(plan):
        head = heads[key]
        if step == "write":
            sent = entry(number)
            unacknowledged[key].append((client.write_entries(key, [sent]), sent.entry_id))
        elif step == "changes":
            change = RemoteEncryptedEntry(head, bytes(12), number.to_bytes(16), b"x")
            server.receive_data(b"".join(client.data_to_send()))
            server.send_changes(key, [change], head + 1)
            heads[key] += 1
            expected[key].append(ChangesReceived(key, (change,), head + 1))
        elif unacknowledged[key]:
            message_id, entry_id = unacknowledged[key].pop(0)
            server.send_ack(message_id, [head], head + 1)
            heads[key] += 1
            expected[key].append(AckReceived(message_id, key, (entry_id,), (head,), head + 1))
    client.receive_data(b"".join(server.data_to_send()))

    events = client.events_received()
    for key in ("a", "b"):
        assert [event for event in events if event.public_key == key] == expected[key]  # type: ignore[union-attr]


@given(got_entries, st.integers(1, 50))
def test_fan_out_frames_give_every_subscriber_the_same_changes(
    entries: tuple[RemoteEncryptedEntry, ...], size: int
) -> None:
    frames = encode_changes_frames(KEY, entries, 7, lambda: 0)
    seen = []
    for is_stream in (False, True):
        client, server = opened(is_stream=is_stream)
        client.request_changes(KEY, 0)
        for data in client.data_to_send():
            server.receive_data(data)
        server.send_encoded(frames)
        data = b"".join(server.data_to_send())
        for piece in [data] if not is_stream else cut(data, [size] * (len(data) // size)):
            client.receive_data(piece)
        seen.append(client.events_received())

    assert seen[0] == seen[1] == [ChangesReceived(KEY, entries, 7)]
