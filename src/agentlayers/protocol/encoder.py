"""
Messages to bytes, exactly as a stock peer writes them.

Fields of ours that a stock peer does not know stand before ``_tag`` and are left out where the
message has none, so such a message is a stock peer's to the byte. Headers and keys are constants:
only what differs from message to message is packed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from agentlayers.errors import LocalProtocolError
from agentlayers.limits import ENTRY_ID_BYTES, IV_BYTES
from agentlayers.protocol.messages import (
    Ack,
    Authenticate,
    Changes,
    ChunkedMessage,
    Credit,
    Extensions,
    FetchedEntries,
    FetchEntries,
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
from agentlayers.protocol.sequence_digest import DIGEST_BYTES
from agentlayers.protocol.wire_form import (
    array_header,
    bin_header,
    map_header,
    pack_bin,
    pack_number,
    pack_str,
)

__all__ = ["encode_message"]

_NO_IV: Final = bytes(IV_BYTES)


def encode_message(message: Message, *, entry_nonces: bool = False) -> bytes:
    """
    Write a message as one MessagePack value.

    Args:
        message: What to write.
        entry_nonces: Put a nonce beside each entry of a WriteEntries; only for a server whose Hello
            announced that it reads them. Without it all entries must have the nonce that stands
            beside the list.

    Raises:
        LocalProtocolError: A field cannot be expressed: a number out of range, bytes of the wrong
            length, several nonces without ``entry_nonces``.
    """
    if type(message) is WriteEntries:
        return _encode_write_entries(message, entry_nonces=entry_nonces)
    return _ENCODERS[type(message)](message)


def _encode_hello(message: Hello) -> bytes:
    remote_id = _exactly(message.remote_id, 16, "Hello.remoteId")
    parts = [
        map_header(2 if message.extensions is None else 3),
        b"\xa8remoteId",
        pack_bin(remote_id),
    ]
    if message.extensions is not None:
        parts += (b"\xabagentlayers", _encode_extensions(message.extensions))
    parts.append(b"\xa4_tag\xa5Hello")
    return b"".join(parts)


def _encode_extensions(extensions: Extensions) -> bytes:
    capabilities = sorted(extensions.capabilities)
    window = extensions.write_window
    parts = [
        map_header(4 if window is None else 5),
        b"\xa7version",
        pack_number(extensions.version, field="Hello.agentlayers.version"),
        b"\xaccapabilities",
        array_header(len(capabilities)),
        *(pack_str(name, field="Hello.agentlayers.capabilities") for name in capabilities),
        b"\xabincarnation",
        pack_bin(extensions.incarnation),
        b"\xa6tenant",
        pack_str(extensions.tenant, field="Hello.agentlayers.tenant"),
    ]
    if window is not None:
        parts += (b"\xabwriteWindow", array_header(2))
        parts += (pack_number(number, field="Hello.agentlayers.writeWindow") for number in window)
    return b"".join(parts)


def _encode_authenticate(message: Authenticate) -> bytes:
    tenant = pack_str(message.tenant, field="Authenticate.tenant")
    token = pack_str(message.token, field="Authenticate.token")
    return b"".join((map_header(3), b"\xa6tenant", tenant, b"\xa5token", token, b"\xa4_tag\xacAuthenticate"))


def _encode_rejected(message: Rejected) -> bytes:
    return map_header(2) + b"\xa4code" + pack_str(message.code, field="Rejected.code") + b"\xa4_tag\xa8Rejected"


def _encode_request_changes(message: RequestChanges) -> bytes:
    parts = [
        map_header(3 if message.credit is None else 4),
        b"\xa9publicKey",
        pack_str(message.public_key, field="RequestChanges.publicKey"),
        b"\xadstartSequence",
        pack_number(message.start_sequence, field="RequestChanges.startSequence"),
    ]
    if message.credit is not None:
        parts += (b"\xa6credit", pack_number(message.credit, field="RequestChanges.credit"))
    parts.append(b"\xa4_tag\xaeRequestChanges")
    return b"".join(parts)


def _encode_credit(message: Credit) -> bytes:
    public_key = pack_str(message.public_key, field="Credit.publicKey")
    amount = pack_number(message.amount, field="Credit.amount")
    return b"".join((map_header(3), b"\xa9publicKey", public_key, b"\xa6amount", amount, b"\xa4_tag\xa6Credit"))


def _encode_stop_changes(message: StopChanges) -> bytes:
    public_key = pack_str(message.public_key, field="StopChanges.publicKey")
    return map_header(2) + b"\xa9publicKey" + public_key + b"\xa4_tag\xabStopChanges"


def _encode_write_entries(message: WriteEntries, *, entry_nonces: bool) -> bytes:
    entries = message.entries
    iv = message.iv or (entries[0].iv if entries else _NO_IV)
    if not entry_nonces and any(entry.iv != iv for entry in entries):
        raise LocalProtocolError("WriteEntries: this server reads one nonce per message; send one entry in each")
    parts = [
        map_header(5),
        b"\xa9publicKey",
        pack_str(message.public_key, field="WriteEntries.publicKey"),
        b"\xa2id",
        pack_number(message.id, field="WriteEntries.id"),
        b"\xa2iv\xc4\x0c",
        _exactly(iv, IV_BYTES, "WriteEntries.iv"),
        b"\xb0encryptedEntries",
        array_header(len(entries)),
    ]
    head = map_header(3 if entry_nonces else 2) + b"\xa7entryId\xc4\x10"
    for entry_id, entry_iv, ciphertext in entries:
        if len(entry_id) != ENTRY_ID_BYTES or len(entry_iv) != IV_BYTES:
            raise LocalProtocolError(f"WriteEntries: an entry id of {len(entry_id)} and an iv of {len(entry_iv)} bytes")
        parts += (head, entry_id, b"\xaeencryptedEntry", bin_header(len(ciphertext)), ciphertext)
        if entry_nonces:
            parts += (b"\xa2iv\xc4\x0c", entry_iv)
    parts.append(b"\xa4_tag\xacWriteEntries")
    return b"".join(parts)


def _encode_ack(message: Ack) -> bytes:
    numbers = message.sequence_numbers
    parts = [
        map_header(3 if message.through is None else 4),
        b"\xa2id",
        pack_number(message.id, field="Ack.id"),
        b"\xafsequenceNumbers",
        array_header(len(numbers)),
        *(pack_number(number, field="Ack.sequenceNumbers") for number in numbers),
    ]
    if message.through is not None:
        parts += (b"\xa7through", pack_number(message.through, field="Ack.through"))
    parts.append(b"\xa4_tag\xa3Ack")
    return b"".join(parts)


def _encode_changes(message: Changes) -> bytes:
    parts = [
        map_header(3 if message.through is None else 4),
        b"\xa9publicKey",
        pack_str(message.public_key, field="Changes.publicKey"),
    ]
    _add_entries(parts, message.entries, "Changes")
    if message.through is not None:
        parts += (b"\xa7through", pack_number(message.through, field="Changes.through"))
    parts.append(b"\xa4_tag\xa7Changes")
    return b"".join(parts)


def _add_entries(parts: list[bytes], entries: Sequence[RemoteEncryptedEntry], tag: str) -> None:
    parts += (b"\xa7entries", array_header(len(entries)))
    for sequence, iv, entry_id, ciphertext in entries:
        if len(entry_id) != ENTRY_ID_BYTES or len(iv) != IV_BYTES:
            raise LocalProtocolError(f"{tag}: an entry id of {len(entry_id)} and an iv of {len(iv)} bytes")
        parts += (
            b"\xde\x00\x04\xa8sequence",
            pack_number(sequence, field="Changes.entries.sequence"),
            b"\xa2iv\xc4\x0c",
            iv,
            b"\xa7entryId\xc4\x10",
            entry_id,
            b"\xaeencryptedEntry",
            bin_header(len(ciphertext)),
            ciphertext,
        )


def _encode_fetch_entries(message: FetchEntries) -> bytes:
    ids = [_exactly(entry_id, ENTRY_ID_BYTES, "FetchEntries.entryIds") for entry_id in message.entry_ids]
    return b"".join(
        (
            map_header(4),
            b"\xa2id",
            pack_number(message.id, field="FetchEntries.id"),
            b"\xa9publicKey",
            pack_str(message.public_key, field="FetchEntries.publicKey"),
            b"\xa8entryIds",
            array_header(len(ids)),
            *map(pack_bin, ids),
            b"\xa4_tag\xacFetchEntries",
        )
    )


def _encode_fetched_entries(message: FetchedEntries) -> bytes:
    parts = [map_header(4), b"\xa2id", pack_number(message.id, field="FetchedEntries.id")]
    _add_entries(parts, message.entries, "FetchedEntries")
    parts += (b"\xa8answered", pack_number(message.answered, field="FetchedEntries.answered"))
    parts.append(b"\xa4_tag\xaeFetchedEntries")
    return b"".join(parts)


def _encode_ping(message: Ping) -> bytes:
    parts = [map_header(2 if message.cursors is None else 3), b"\xa2id", pack_number(message.id, field="Ping.id")]
    if message.cursors is not None:
        parts += (b"\xa7cursors", map_header(len(message.cursors)))
        for public_key, cursor in message.cursors.items():
            parts += (pack_str(public_key, field="Ping.cursors"), pack_number(cursor, field="Ping.cursors"))
    parts.append(b"\xa4_tag\xa4Ping")
    return b"".join(parts)


def _encode_pong(message: Pong) -> bytes:
    parts = [map_header(2 if message.digests is None else 3), b"\xa2id", pack_number(message.id, field="Pong.id")]
    if message.digests is not None:
        parts += (b"\xa7digests", map_header(len(message.digests)))
        for public_key, (head, digest) in message.digests.items():
            parts += (pack_str(public_key, field="Pong.digests"), array_header(1 if digest is None else 2))
            parts.append(pack_number(head, field="Pong.digests"))
            if digest is not None:
                parts.append(pack_bin(_exactly(digest, DIGEST_BYTES, "Pong.digests")))
    parts.append(b"\xa4_tag\xa4Pong")
    return b"".join(parts)


def _encode_chunked_message(message: ChunkedMessage) -> bytes:
    return b"".join(
        (
            map_header(4),
            b"\xa2id",
            pack_number(message.id, field="ChunkedMessage.id"),
            b"\xa4part\x92",
            pack_number(message.index, field="ChunkedMessage.part"),
            pack_number(message.total, field="ChunkedMessage.part"),
            b"\xa4data",
            bin_header(len(message.data)),
            message.data,
            b"\xa4_tag\xaeChunkedMessage",
        )
    )


def _exactly(data: bytes, size: int, field: str) -> bytes:
    if len(data) != size:
        raise LocalProtocolError(f"{field}: expected {size} bytes, got {len(data)}")
    return data


_ENCODERS: Final[dict[type, Callable[[Any], bytes]]] = {
    Hello: _encode_hello,
    Authenticate: _encode_authenticate,
    Rejected: _encode_rejected,
    RequestChanges: _encode_request_changes,
    Credit: _encode_credit,
    StopChanges: _encode_stop_changes,
    Ack: _encode_ack,
    Changes: _encode_changes,
    FetchEntries: _encode_fetch_entries,
    FetchedEntries: _encode_fetched_entries,
    Ping: _encode_ping,
    Pong: _encode_pong,
    ChunkedMessage: _encode_chunked_message,
}
