"""
Write large content piece by piece, each durable before the next is taken, so memory does not grow with it.

Until a record refers to them, the pieces of an upload are kept for a while; those of one that failed are dropped
by a later cleanup.
"""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterable, AsyncIterator
from functools import partial
from typing import Final

from agentlayers.errors import UsageError
from agentlayers.eventlog.event_log import EventLog
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.limits import ARTIFACT_CHUNK_BYTES, ARTIFACT_INLINE_BYTES_MAX
from agentlayers.storage.artifact_chunk import (
    ARTIFACT_CHUNK,
    CONTENT_STORE,
    ContentChunks,
    chunk_key,
    chunk_payload,
    digest_of_chunk,
    recut,
)
from agentlayers.storage.artifact_chunk_index import chunk_entries, keep_for_now

__all__ = ["pieces_of", "upload"]

_COPIED: Final = 64 * 1024


async def upload(log: EventLog, pieces: AsyncIterable[bytes], *, is_text: bool) -> bytes | ContentChunks:
    """
    Store content that may be large.

    Args:
        log: Of the store of pieces.
        pieces: The content, cut in any way.
        is_text: Check that it is UTF-8.

    Returns:
        The content itself if a record can hold it, else where its pieces are.

    Raises:
        UsageError: Not bytes, or text that is not UTF-8.
    """
    held_back: list[bytes] = []
    digests: list[bytes] = []
    entry_ids: list[bytes] = []
    size = 0
    async for piece in recut(_checked(pieces, is_text=is_text), ARTIFACT_CHUNK_BYTES):
        size += len(piece)
        held_back.append(piece)
        if size > ARTIFACT_INLINE_BYTES_MAX:
            for data in held_back:
                digest, entry_id = await log.transact(partial(_write, data=data))
                digests.append(digest)
                entry_ids.append(entry_id)
            held_back.clear()
    return ContentChunks(size, tuple(digests), tuple(entry_ids)) if digests else b"".join(held_back)


async def pieces_of(content: str | bytes) -> AsyncIterator[bytes]:
    """Cut content that is in memory, so that no second copy of all of it is made."""
    for start in range(0, len(content), _COPIED):
        piece = content[start : start + _COPIED]
        yield piece.encode() if isinstance(piece, str) else piece


def _write(tx: JournalTransaction, *, data: bytes) -> tuple[bytes, bytes]:
    digest = digest_of_chunk(data)
    held = chunk_entries(tx, digest)
    if held:
        keep_for_now(tx, digest)
        return digest, held[0]
    return digest, tx.write(CONTENT_STORE, ARTIFACT_CHUNK, chunk_key(digest), chunk_payload(digest, data)).id


async def _checked(pieces: AsyncIterable[bytes], *, is_text: bool) -> AsyncIterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-8")() if is_text else None
    async for piece in pieces:
        if not isinstance(piece, bytes | bytearray | memoryview):
            raise UsageError(f"chunks: {type(piece).__name__} cannot be stored; expected pieces of bytes")
        _decode(decoder, piece)
        yield bytes(piece)
    _decode(decoder, b"", final=True)


def _decode(decoder: codecs.IncrementalDecoder | None, piece: bytes, *, final: bool = False) -> None:
    if decoder is None:
        return
    try:
        decoder.decode(piece, final)
    except UnicodeDecodeError as error:
        raise UsageError(f"chunks: {error}; expected UTF-8, or put the record with content=b'' for bytes") from error
