"""
Bytes of the sync protocol, as somebody who has read docs/reference/protocol.md and nothing else writes them.

It imports nothing of agentlayers, and neither do the client and the server beside it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

CHUNK_BYTES = 512_000
Message = dict[str, Any]


def encode(value: Any) -> bytes:
    """Write a value in the forms of stock peers: map16, float64 for every large or broken number."""
    if isinstance(value, dict):
        pairs = b"".join(encode(key) + encode(one) for key, one in value.items())
        return b"\xde" + struct.pack(">H", len(value)) + pairs
    if isinstance(value, list | tuple):
        header: bytes = msgpack.Packer().pack_array_header(len(value))
        return header + b"".join(map(encode, value))
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**31) <= value < 2**32:
        value = float(value)
    packed: bytes = msgpack.packb(value)
    return packed


def encode_message(tag: str, **fields: Any) -> bytes:
    """Write a message: its fields in the order given, ``_tag`` last, absent ones left out."""
    return encode({name: value for name, value in fields.items() if value is not None} | {"_tag": tag})


def new_decoder() -> msgpack.Unpacker:
    """Return a decoder of a stream; one WebSocket message is a stream of one value."""
    return msgpack.Unpacker(ext_hook=_undefined, strict_map_key=True, max_buffer_size=64 * 2**20)


def decode(data: bytes) -> Any:
    """Read exactly one value."""
    return msgpack.unpackb(data, ext_hook=_undefined)


def _undefined(code: int, data: bytes) -> None:
    if (code, data) != (0, b"\0"):
        raise ValueError(f"extension {code} is none of the protocol")


def cut(message: bytes, number: int) -> list[bytes]:
    """Cut a message into chunks, if it has to be."""
    if len(message) <= CHUNK_BYTES:
        return [message]
    parts = [message[at : at + CHUNK_BYTES] for at in range(0, len(message), CHUNK_BYTES)]
    return [
        encode_message("ChunkedMessage", id=number, part=[index, len(parts)], data=part)
        for index, part in enumerate(parts)
    ]


class Joiner:
    """Puts chunked messages together again."""

    def __init__(self) -> None:
        self._parts: dict[int, dict[int, bytes]] = {}

    def join(self, message: Message) -> Message | None:
        """Return the message itself, or the one that this chunk completes."""
        if message["_tag"] != "ChunkedMessage":
            return message
        index, total = message["part"]
        parts = self._parts.setdefault(message["id"], {})
        parts[index] = message["data"]
        if len(parts) < total:
            return None
        whole: Message = decode(b"".join(parts[at] for at in range(total)))
        del self._parts[message["id"]]
        return whole


@dataclass(frozen=True)
class Entry:
    """One fact: what is sealed."""

    id: bytes
    event: str
    primary_key: str
    payload: Any

    def sealed(self, key: bytes, iv: bytes) -> bytes:
        """Seal it."""
        plaintext = {
            "id": self.id,
            "event": self.event,
            "primaryKey": self.primary_key,
            "payload": encode(self.payload),
        }
        return AESGCM(key).encrypt(iv, encode(plaintext), None)

    @classmethod
    def opened(cls, key: bytes, sent: Message) -> Entry | None:
        """Open what came in Changes; None if it is not what it says."""
        try:
            plaintext = decode(AESGCM(key).decrypt(sent["iv"], sent["encryptedEntry"], None))
        except (InvalidTag, ValueError):
            return None
        if plaintext["id"] != sent["entryId"]:
            return None
        return cls(plaintext["id"], plaintext["event"], plaintext["primaryKey"], decode(plaintext["payload"]))


@dataclass(frozen=True)
class StoreKeys:
    """What one store of an identity is known by and sealed with."""

    public_key: str
    encryption_key: bytes

    @classmethod
    def derived(cls, identity_text: str, store: str) -> StoreKeys:
        """Derive them from the text form of an identity."""
        identity = json.loads(base64.urlsafe_b64decode(identity_text + "=" * (-len(identity_text) % 4)))
        if store in identity.get("stores", {}):
            return cls.of(identity["stores"][store])
        return cls.derived_from(base64.b64decode(identity["privateKey"]), store)

    @classmethod
    def derived_from(cls, root: bytes, store: str) -> StoreKeys:
        """Derive them from a root secret."""

        def key(label: str) -> bytes:
            info = f"agentlayers/v1/store/{store}/{label}".encode()
            return HKDF(SHA256(), 32, salt=None, info=info).derive(root)

        verify_key = Ed25519PrivateKey.from_private_bytes(key("signing-seed")).public_key()
        digest = hashlib.sha256(verify_key.public_bytes(Encoding.Raw, PublicFormat.Raw)).digest()
        return cls(base64.urlsafe_b64encode(digest).decode().rstrip("="), key("encryption-key"))

    @classmethod
    def of(cls, identity_text: str) -> StoreKeys:
        """Take an identity's own keys, as stock peers do."""
        identity = json.loads(base64.urlsafe_b64decode(identity_text + "=" * (-len(identity_text) % 4)))
        return cls(identity["publicKey"], base64.b64decode(identity["privateKey"]))


class Digest:
    """The digest of the first entry ids of one key."""

    def __init__(self) -> None:
        self.count = 0
        self.value = bytes(16)

    def add(self, entry_id: bytes) -> None:
        """Take the id of the next sequence."""
        number = struct.pack(">Q", self.count)
        self.value = hashlib.sha256(self.value + number + entry_id).digest()[:16]
        self.count += 1


def new_ids() -> Iterator[bytes]:
    """Make ascending UUIDv7s."""
    last = 0
    while True:
        last = max(last + 1, time.time_ns() // 1_000_000 << 12)
        milliseconds, count = last >> 12, last & 0xFFF
        head = milliseconds.to_bytes(6, "big") + (0x7000 | count).to_bytes(2, "big")
        tail = bytearray(os.urandom(8))
        tail[0] = tail[0] & 0x3F | 0x80
        yield head + bytes(tail)
