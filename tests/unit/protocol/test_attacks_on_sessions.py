"""Messages that are well formed as far as they go, from a peer that means harm."""

from __future__ import annotations

import struct

import pytest

from agentlayers.errors import LimitExceededError, MalformedMessageError
from agentlayers.limits import AUTHENTICATE_BYTES_MAX, FRAME_BYTES_MAX, NAME_BYTES_MAX, TOKEN_BYTES_MAX
from agentlayers.protocol import AuthenticateReceived, ServerSession, SessionFailed, WriteReceived
from agentlayers.protocol.codec import decode_message, encode_message
from agentlayers.protocol.messages import (
    Ack,
    Authenticate,
    Changes,
    EncryptedEntry,
    Hello,
    Message,
    RemoteEncryptedEntry,
    WriteEntries,
)

FLOAT = b"\xcb" + struct.pack(">d", 2**53)
HELLO = Hello(bytes(16))
LONG = encode_message(WriteEntries("key", 0, (EncryptedEntry(bytes(16), bytes(12), bytes(1_000_000)),)))


def numbered(sequence: int) -> list[Message]:
    return [
        Changes("key", (RemoteEncryptedEntry(sequence, bytes(12), bytes(16), b"sealed"),), None),
        Ack(0, (sequence,), None),
    ]


def test_an_entry_that_leaves_no_number_for_a_cursor_is_malformed() -> None:
    """A replica would store a cursor that no RequestChanges can carry, and could never connect to that server again."""
    for message in numbered(2**53 - 1):
        assert decode_message(encode_message(message)) == message
    for message in numbered(2**53):
        data = encode_message(message)
        for form in (data, data.replace(FLOAT, b"\xcf" + (2**53).to_bytes(8))):
            with pytest.raises(MalformedMessageError, match="leaves no number for a cursor"):
                decode_message(form)


def test_a_stranger_may_have_no_more_kept_than_an_authenticate() -> None:
    """Thousands of connections that never finish their first message would otherwise fill memory."""
    session = ServerSession(is_stream=True, hello=None)
    start = LONG[: AUTHENTICATE_BYTES_MAX + 1]
    session.receive_data(start[:-1])
    assert session.events_received() == []
    session.receive_data(start[-1:])

    (failed,) = session.events_received()
    assert isinstance(failed, SessionFailed)
    assert isinstance(failed.error, LimitExceededError)
    assert (failed.error.limit, failed.error.allowed) == ("AUTHENTICATE_BYTES_MAX", AUTHENTICATE_BYTES_MAX)
    assert session.buffered_bytes == 0


def test_the_longest_authenticate_fits_and_what_follows_it_may_be_long() -> None:
    """The bound is for strangers, also where the next message comes in the same read."""
    session = ServerSession(is_stream=True, hello=None)
    authenticate = encode_message(Authenticate("t" * NAME_BYTES_MAX, "x" * TOKEN_BYTES_MAX))
    assert len(authenticate) < AUTHENTICATE_BYTES_MAX
    session.receive_data(authenticate + LONG)
    (received,) = session.events_received()
    assert isinstance(received, AuthenticateReceived)
    session.accept(HELLO)

    (written,) = session.events_received()
    assert isinstance(written, WriteReceived)
    assert len(written.entries[0].ciphertext) == 1_000_000


def test_who_is_let_in_without_a_message_may_send_long_ones() -> None:
    """As with a client certificate."""
    session = ServerSession(is_stream=True, hello=None)
    session.accept(HELLO)
    session.receive_data(LONG)
    (written,) = session.events_received()
    assert isinstance(written, WriteReceived)

    session.receive_data(b"\xc6" + (FRAME_BYTES_MAX).to_bytes(4) + bytes(FRAME_BYTES_MAX))
    (failed,) = session.events_received()
    assert isinstance(failed, SessionFailed)
    assert failed.error.code == "limit_exceeded"
