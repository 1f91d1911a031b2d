"""Content of artifacts that is in pieces: whether it is here, and reading it."""

from __future__ import annotations

from dataclasses import replace

from agentlayers.errors import MalformedMessageError, StorageCorruptionError, StorageUnavailableError, UsageError
from agentlayers.journal.entry import Entry
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.protocol.payload import decode_payload
from agentlayers.storage.artifact import ARTIFACT_RECORD, ArtifactRecord
from agentlayers.storage.artifact_chunk import ARTIFACT_CHUNK, CHUNKS_FIELD, ContentChunks, digest_of_key
from agentlayers.storage.artifact_chunk_index import chunk_data, has_all, is_needed
from agentlayers.storage.payload_field import peek_text

__all__ = [
    "bytes_in_chunks",
    "check_metadata",
    "content_missing",
    "is_entry_needed",
    "loaded",
    "piece_of",
    "with_completeness",
]


def check_metadata(record: ArtifactRecord, *, is_large: bool) -> None:
    """
    Refuse metadata that would be read as the list of large content.

    Raises:
        UsageError: It has that name.
    """
    found = (record.metadata or {}).get(CHUNKS_FIELD)
    if found is not None and (is_large or (not record.content and ContentChunks.from_metadata(found) is not None)):
        raise UsageError(f"artifact {record.id!r}: metadata {CHUNKS_FIELD!r} lists large content; use another name")


def is_entry_needed(tx: JournalTransaction, entry: Entry) -> bool:
    """Tell whether compaction must leave an append-only entry because artifacts consist of it."""
    digest = digest_of_key(entry.primary_key) if entry.event == ARTIFACT_CHUNK else b""
    return bool(digest) and is_needed(tx, digest)


def bytes_in_chunks(entry: Entry) -> int:
    """Return the bytes that an artifact has beside its record."""
    if entry.event != ARTIFACT_RECORD or peek_text(entry.payload, "content"):
        return 0
    try:
        record = ArtifactRecord.from_payload(entry.id, decode_payload(entry.payload))
    except MalformedMessageError:
        return 0
    return 0 if record.chunks is None else record.chunks.size_bytes


def with_completeness(tx: JournalTransaction, primary_key: str, record: ArtifactRecord) -> ArtifactRecord:
    """Return a record that says whether all of its content is here."""
    if record.chunks is None or has_all(tx, primary_key, record.chunks.digests):
        return record
    return replace(record, is_complete=False)


def loaded(tx: JournalTransaction, record: ArtifactRecord) -> ArtifactRecord:
    """Return a record with its large content, if all of that is here."""
    if record.chunks is None or not record.is_complete:
        return record
    pieces = [piece_of(tx, digest) for digest in record.chunks.digests]
    if None in pieces:
        return replace(record, is_complete=False)
    data = b"".join(piece for piece in pieces if piece is not None)
    del pieces
    if isinstance(record.content, bytes):
        return replace(record, content=data)
    try:
        return replace(record, content=data.decode())
    except UnicodeDecodeError as error:
        reason = f"artifact {record.id!r} is text, but its content is not UTF-8"
        raise StorageCorruptionError(backend="journal", operation="read", reason=reason) from error


def piece_of(tx: JournalTransaction, digest: bytes) -> bytes | None:
    """
    Read one piece; :obj:`None` if it is not here.

    Raises:
        StorageCorruptionError: It is not what was stored.
    """
    try:
        return chunk_data(tx, digest)
    except MalformedMessageError as error:
        raise StorageCorruptionError(backend="journal", operation="read", reason=str(error)) from error


def content_missing(artifact_id: str, reason: str) -> StorageUnavailableError:
    """Return the error for content that is not here."""
    return StorageUnavailableError(backend="journal", operation="read", reason=f"artifact {artifact_id!r}: {reason}")
