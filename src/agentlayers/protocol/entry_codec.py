"""
The plaintext of an entry: what is sealed, and what comes out when a sealed entry is opened.

A map16 of exactly ``id, event, primaryKey, payload`` in this order, byte for byte as stock peers
write it; ``payload`` holds MessagePack of its own (:mod:`agentlayers.protocol.payload`), which is
passed on unread.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from agentlayers.errors import LocalProtocolError, MalformedMessageError
from agentlayers.limits import ENTRY_ID_BYTES, FIELDS_PER_MESSAGE_MAX
from agentlayers.protocol.wire_form import bin_header, pack_str

__all__ = ["decode_entry", "encode_entry"]

_HEAD: Final = b"\xde\x00\x04\xa2id\xc4\x10"


def encode_entry(entry_id: bytes, event: str, primary_key: str, payload: bytes) -> bytes:
    r"""
    Put an entry together for sealing.

    Raises:
        LocalProtocolError: The id is not 16 bytes long, or a text has no UTF-8 form.

    >>> encode_entry(bytes(16), "E", "", b"")[25:]
    b'event\xa1E\xaaprimaryKey\xa0\xa7payload\xc4\x00'

    """
    if len(entry_id) != ENTRY_ID_BYTES:
        raise LocalProtocolError(f"entry id: expected {ENTRY_ID_BYTES} bytes, got {len(entry_id)}")
    return b"".join(
        (
            _HEAD,
            entry_id,
            b"\xa5event",
            pack_str(event, field="event"),
            b"\xaaprimaryKey",
            pack_str(primary_key, field="primary key"),
            b"\xa7payload",
            bin_header(len(payload)),
            payload,
        )
    )


def decode_entry(data: bytes) -> tuple[bytes, str, str, bytes]:
    """
    Take an opened entry apart into id, event, primary key and payload.

    Any key order and further fields are accepted, as a stock peer does.

    Raises:
        MalformedMessageError: No such map, or a field is missing or of another type.
    """
    try:
        fields: Any = msgpack.unpackb(
            data,
            ext_hook=_refuse_extension,
            max_array_len=FIELDS_PER_MESSAGE_MAX,
            max_map_len=FIELDS_PER_MESSAGE_MAX,
        )
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise MalformedMessageError(f"entry: not one MessagePack map ({error})") from None
    if type(fields) is not dict:
        raise MalformedMessageError(f"entry: expected a map, got {type(fields).__name__}")
    entry_id, event = fields.get("id"), fields.get("event")
    primary_key, payload = fields.get("primaryKey"), fields.get("payload")
    if type(entry_id) is not bytes or len(entry_id) != ENTRY_ID_BYTES:
        raise MalformedMessageError(f"entry.id: expected {ENTRY_ID_BYTES} bytes")
    if type(event) is not str:
        raise MalformedMessageError(f"entry.event: expected text, got {type(event).__name__}")
    if type(primary_key) is not str:
        raise MalformedMessageError(f"entry.primaryKey: expected text, got {type(primary_key).__name__}")
    if type(payload) is not bytes:
        raise MalformedMessageError(f"entry.payload: expected bytes, got {type(payload).__name__}")
    return entry_id, event, primary_key, payload


def _refuse_extension(code: int, data: bytes) -> object:
    """Let an extension stand for nothing: whether it matters shows when its field is checked."""
    del code, data
    return None
