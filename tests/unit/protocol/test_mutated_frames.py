"""Whatever bytes arrive, a session accepts them or fails with a documented error; nothing else happens."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from agentlayers.errors import AccessError, MalformedMessageError, RemoteProtocolError
from agentlayers.protocol.client_session import ClientSession
from agentlayers.protocol.codec import decode_message, encode_message
from agentlayers.protocol.entry_codec import decode_entry
from agentlayers.protocol.events import SessionFailed
from agentlayers.protocol.messages import (
    Ack,
    Authenticate,
    Changes,
    Credit,
    Extensions,
    FetchedEntries,
    FetchEntries,
    HeadDigest,
    Hello,
    Ping,
    Pong,
    Rejected,
    RemoteEncryptedEntry,
    RequestChanges,
    WriteEntries,
    WriteWindow,
)
from agentlayers.protocol.payload import decode_value
from agentlayers.protocol.server_session import ServerSession
from agentlayers.protocol.session import SessionState
from agentlayers.server.greeting import CAPABILITIES
from unit.protocol.session_pair import KEY, REMOTE, STOCK_HELLO, entry, hello
from vectors.effect_v3 import VECTORS

OURS = Hello(REMOTE, Extensions(1, CAPABILITIES, bytes(16), "default", WriteWindow(2, 2**20)))
SEEDS = [
    *(bytes.fromhex(case["hex"]) for case in VECTORS["messages"]),
    *(bytes.fromhex(case["hex"]) for case in VECTORS["requestDecodeForms"]["cases"]),
    *(bytes.fromhex(case["hex"]) for case in VECTORS["msgpackDecode"]["cases"]),
    *(bytes.fromhex(case["hex"]) for case in VECTORS["entryPlaintext"]["cases"]),
    encode_message(OURS),
    encode_message(RequestChanges(KEY, 3, 2**20)),
    encode_message(Credit(KEY, 5)),
    encode_message(Rejected("authentication")),
    encode_message(FetchEntries(1, KEY, (bytes(16), bytes(15) + b"x"))),
    encode_message(FetchedEntries(1, (RemoteEncryptedEntry(3, bytes(12), bytes(16), b"x"),), 2)),
    encode_message(Authenticate("t", "token")),
    encode_message(Ack(3, (1, 2, 3), 4)),
    encode_message(WriteEntries(KEY, 0, (entry(1), entry(2))), entry_nonces=True),
    encode_message(Ping(1, {KEY: 7, "other": 2**40})),
    encode_message(Pong(1, {KEY: HeadDigest(8, bytes(16)), "other": HeadDigest(0)})),
    encode_message(Changes(KEY, (RemoteEncryptedEntry(2**40, bytes(12), bytes(16), b"x"),), 5)),
]
HEADS = bytes([0x80, 0x8F, 0x90, 0xA0, 0xC0, 0xC1, 0xC4, 0xC6, 0xC9, 0xCB, 0xCF, 0xD4, 0xD9, 0xDB])
HEADS += bytes([0xDC, 0xDD, 0xDE, 0xDF, 0xFF, 0x00, 0x7F, 0x40, 0x72])


def mutated(dice: random.Random) -> bytes:
    """Take a real frame and break it in a few places, as a fuzzer would."""
    data = bytearray(dice.choice(SEEDS))
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(7):
            case 0:
                data[at : at + 1] = bytes([dice.randrange(256)])
            case 1:
                data[at:at] = bytes([dice.choice(HEADS)])
            case 2:
                del data[at : at + dice.randint(1, 8)]
            case 3:
                del data[at:]
            case 4:
                other = dice.choice(SEEDS)
                data[at:at] = other[dice.randrange(len(other) + 1) :][: dice.randint(1, 40)]
            case 5:
                data[at : at + 1] = bytes([dice.choice(HEADS)])
            case 6:
                data[at : at + 4] = dice.choice((b"\xff\xff\xff\xff", b"\x00\x00\x00\x00"))
    return bytes(data)


def run(frames: int, seed: int) -> int:
    """Give mutated frames to everything that reads a peer's bytes; returns how many were refused."""
    dice, refused = random.Random(seed), 0
    for _ in range(frames):
        data = mutated(dice)
        is_stream = dice.random() < 0.5
        client = ClientSession(is_stream=is_stream)
        greeting = dice.choice((OURS, hello(), STOCK_HELLO))
        client.receive_data(encode_message(greeting))
        client.request_changes(KEY, 0, 600 if greeting is OURS else None)
        client.write_entries(KEY, [entry(1)])
        client.ping({KEY: 7} if client.compares_digests else None)
        if client.can_fetch_now:
            client.fetch_entries(KEY, [bytes(16), bytes(15) + b"x"])
        server = ServerSession(is_stream=is_stream, hello=dice.choice((OURS, STOCK_HELLO, None)))
        if server.state is SessionState.OPEN and dice.random() < 0.5:
            server.receive_data(encode_message(RequestChanges(KEY, 0, 1000)))
        for session in (client, server):
            session.receive_data(data)
            session.receive_data(data)
            if session.error is not None:
                refused += 1
                assert isinstance(session.error, RemoteProtocolError | AccessError)
                assert isinstance(session.events_received()[-1], SessionFailed)
            assert session.buffered_bytes < 10_000
        try:
            message = decode_message(data)
        except RemoteProtocolError:
            refused += 1
        else:  # what is accepted is sound: it can be written again, and read back as the same
            again = encode_message(message, entry_nonces=True)
            assert decode_message(again) == message
        for decode in (decode_entry, decode_value):
            try:
                decode(data)
            except MalformedMessageError:
                refused += 1
    return refused


def test_20_000_mutated_frames_cause_documented_errors_only() -> None:
    tracemalloc.start()
    try:
        refused = run(20_000 // 5, seed=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    refused += run(20_000 - 20_000 // 5, seed=2)

    assert refused > 20_000  # most frames are broken in a way that matters
    assert peak < 16 * 1024 * 1024


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
def test_200_000_mutated_frames_cause_documented_errors_only(seed: int) -> None:
    assert run(20_000, seed=seed) > 20_000


def test_random_bytes_cause_documented_errors_only() -> None:
    dice = random.Random(3)
    for _ in range(5_000):
        data = dice.randbytes(dice.randrange(40))
        for session in (
            ClientSession(is_stream=True),
            ServerSession(is_stream=True, hello=hello()),
            ServerSession(is_stream=False, hello=None),
        ):
            session.receive_data(data)
            assert session.error is None or isinstance(session.error, RemoteProtocolError)
