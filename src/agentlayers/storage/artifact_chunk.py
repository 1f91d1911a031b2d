"""
Large content in pieces: each an append-only entry, named by its hash, that records refer to.

The pieces are a store of their own in the artifacts' journal, with a public key of its own, so that a replica can take
over records without the content they refer to.

Equal pieces are stored once on a replica, whatever artifacts they belong to. The record of large content has
no content of its own; ``metadata.chunks`` lists what it consists of.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentlayers.errors import MalformedMessageError
from agentlayers.limits import ENTRY_ID_BYTES

__all__ = [
    "ARTIFACT_CHUNK",
    "ARTIFACT_CHUNK_WANTED",
    "CHUNKS_FIELD",
    "CONTENT_STORE",
    "DIGEST_BYTES",
    "ContentChunks",
    "chunk_key",
    "chunk_payload",
    "digest_of_chunk",
    "digest_of_key",
    "read_chunk",
    "recut",
]

ARTIFACT_CHUNK: Final = "artifact_chunk"
"""Tag of an entry that holds one piece of large content."""

ARTIFACT_CHUNK_WANTED: Final = "artifact_chunk_wanted"
"""Tag of an entry by which a replica that dropped a piece asks for it again."""

CONTENT_STORE: Final = "artifact_content"
"""Name of the store of pieces; its keys derive from those of the artifact store."""

CHUNKS_FIELD: Final = "chunks"
"""Where the metadata of a record on the wire lists the pieces of its content."""

DIGEST_BYTES: Final = 32
"""SHA-256."""

_KEY_PREFIX: Final = "sha256:"


@dataclass(frozen=True, slots=True)
class ContentChunks:
    """
    What large content consists of.

    Attributes:
        size_bytes: Of the whole content.
        digests: SHA-256 of each piece, in order.
        entry_ids: An entry that holds each piece, so that a server can be asked for it; empty in older records.
    """

    size_bytes: int
    digests: tuple[bytes, ...]
    entry_ids: tuple[bytes, ...] = ()

    def to_metadata(self) -> dict[str, Any]:
        """Return what goes into ``metadata.chunks`` on the wire."""
        metadata: dict[str, Any] = {"sizeBytes": self.size_bytes, "sha256": [digest.hex() for digest in self.digests]}
        if self.entry_ids:
            metadata["entryIds"] = [entry_id.hex() for entry_id in self.entry_ids]
        return metadata

    @classmethod
    def from_metadata(cls, value: object) -> ContentChunks | None:
        """
        Read ``metadata.chunks``; :obj:`None` for anything else that somebody keeps under this name.

        >>> chunks = ContentChunks(3, (bytes(32),))
        >>> ContentChunks.from_metadata(chunks.to_metadata()) == chunks, ContentChunks.from_metadata(3)
        (True, None)

        """
        if not isinstance(value, Mapping) or value.keys() - {"entryIds"} != {"sizeBytes", "sha256"}:
            return None
        size_bytes, names, ids = value["sizeBytes"], value["sha256"], value.get("entryIds", [])
        if type(size_bytes) is not int or size_bytes < 0 or not isinstance(names, list) or not names:
            return None
        digests = tuple(map(_parse_hex, names))
        if any(len(digest) != DIGEST_BYTES for digest in digests):
            return None
        entry_ids = tuple(map(_parse_hex, ids)) if isinstance(ids, list) else ()
        are_usable = len(entry_ids) == len(digests) and all(len(one) == ENTRY_ID_BYTES for one in entry_ids)
        return cls(size_bytes, digests, entry_ids if are_usable else ())


def digest_of_chunk(data: bytes) -> bytes:
    """Return the name of a piece."""
    return hashlib.sha256(data).digest()


def chunk_key(digest: bytes) -> str:
    """
    Return the primary key of a piece's entries.

    >>> digest_of_key(chunk_key(bytes(32))) == bytes(32)
    True

    """
    return _KEY_PREFIX + digest.hex()


def digest_of_key(primary_key: str) -> bytes:
    """Return what :func:`chunk_key` was given; empty if this is no such key."""
    digest = _parse_hex(primary_key.removeprefix(_KEY_PREFIX))
    return digest if chunk_key(digest) == primary_key else b""


def chunk_payload(digest: bytes, data: bytes) -> dict[str, Any]:
    """Return the fields that go on the wire."""
    return {"sha256": digest.hex(), "data": data}


def read_chunk(primary_key: str, payload: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """
    Return the name of a piece and its bytes, whoever wrote it.

    Raises:
        MalformedMessageError: It is not what its key says.
    """
    data, digest = payload.get("data"), digest_of_key(primary_key)
    if not isinstance(data, bytes) or not data or digest_of_chunk(data) != digest:
        raise MalformedMessageError(f"{ARTIFACT_CHUNK}: the data of {primary_key[:80]!r} is not what its key says")
    return digest, data


async def recut(pieces: AsyncIterable[bytes], size: int) -> AsyncIterator[bytes]:
    """Yield the same bytes in pieces of ``size``, only the last one shorter, without holding more than two."""
    kept = bytearray()
    async for piece in pieces:
        view = memoryview(piece)
        while len(kept) + len(view) >= size:
            taken = size - len(kept)
            kept += view[:taken]
            view = view[taken:]
            yield bytes(kept)
            kept.clear()
        kept += view
    if kept:
        yield bytes(kept)


def _parse_hex(name: object) -> bytes:
    try:
        return binascii.unhexlify(name) if isinstance(name, str) else b""
    except ValueError:
        return b""
