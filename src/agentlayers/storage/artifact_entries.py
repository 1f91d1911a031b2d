"""Write the entries of one artifact, and find what is held of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agentlayers.errors import StorageConflictError, UsageError
from agentlayers.journal.conflict_policy import ConflictPolicy, Version
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.storage.artifact import (
    ARTIFACT_DELETED,
    ARTIFACT_RECORD,
    STORE,
    ArtifactConflict,
    ArtifactRecord,
    ArtifactVersion,
    artifact_key,
)
from agentlayers.storage.artifact_chunk import CHUNKS_FIELD
from agentlayers.storage.artifact_chunk_index import has_all
from agentlayers.storage.artifact_content import with_completeness
from agentlayers.storage.artifact_index import ArtifactRow, readable_heads, resolve_heads, row_of, rows_of_id
from agentlayers.storage.payload_field import required_text

__all__ = ["conflict_of", "content_said", "rows_named", "versions_of", "write_deletion", "write_record"]


def write_record(tx: JournalTransaction, record: ArtifactRecord) -> ArtifactRecord:
    """
    Write the next version of an artifact.

    Raises:
        UsageError: Another artifact has its key.
        StorageConflictError: Pieces of its content are not here.
    """
    key = artifact_key(record.session_id, record.id)
    row = row_of(tx, key)
    if row is not None and (row.session_id, row.artifact_id) != (record.session_id, record.id):
        raise UsageError(
            f"artifact {record.id!r} of session {record.session_id!r} has the key {key!r}, which "
            f"already names {row.artifact_id!r} of session {row.session_id!r}; choose another id"
        )
    created = record.created_at_ms
    if created is None:
        created = tx.now_ms() if row is None else row.created_at_ms
    record = replace(record, created_at_ms=created)
    if record.chunks is not None and not has_all(tx, key, record.chunks.digests):
        reason = f"artifact {record.id!r}: content it consists of is not here any more; put it again"
        raise StorageConflictError(backend="journal", operation="put", reason=reason)
    entry = tx.write(STORE, ARTIFACT_RECORD, key, record.to_payload())
    return replace(record, entry_id=entry.id)


def write_deletion(tx: JournalTransaction, row: ArtifactRow) -> None:
    """Write the deletion of an artifact."""
    payload = {"id": row.artifact_id, "sessionId": row.session_id, "deletedAt": tx.now_ms()}
    tx.write(STORE, ARTIFACT_DELETED, row.primary_key, payload)


def rows_named(tx: JournalTransaction, artifact_id: str, session_id: str | None) -> list[ArtifactRow]:
    """List the artifacts of one name, in one session or in all."""
    required_text("artifact id", artifact_id)
    if session_id is None:
        return list(rows_of_id(tx, artifact_id))
    row = row_of(tx, artifact_key(session_id, artifact_id))
    return [] if row is None or row.artifact_id != artifact_id else [row]


def versions_of(tx: JournalTransaction, primary_key: str) -> list[ArtifactVersion]:
    """List the versions of a key, by entry id."""
    heads = {head.id for head in tx.heads(STORE, primary_key)}
    return [
        ArtifactVersion(
            entry_id=version.id,
            replica=version.replica,
            record=_version_record(tx, version),
            is_head=version.id in heads,
        )
        for version in readable_heads(tx.versions(STORE, primary_key))
    ]


def _version_record(tx: JournalTransaction, version: Version) -> ArtifactRecord | None:
    if version.is_deletion:
        return None
    record = ArtifactRecord.from_payload(version.id, version.value)
    return with_completeness(tx, artifact_key(record.session_id, record.id), record)


def conflict_of(heads: Sequence[Version], policy: ConflictPolicy) -> ArtifactConflict | None:
    """Describe the concurrent versions of an artifact; :obj:`None` if there is nothing to settle."""
    readable = readable_heads(heads)
    live = [head for head in readable if not head.is_deletion]
    if not live or len(readable) == 1:
        return None
    value = live[0].value
    resolution = resolve_heads(readable, policy)[1]
    return ArtifactConflict(value["sessionId"], value["id"], tuple(readable), resolution)


def content_said(version: Version) -> Mapping[str, Any]:
    """
    Return what counts when versions of an artifact are compared: neither when each was made nor where its pieces lie.

    One replica may have recorded a tool's result that another one imported.
    """
    value = {name: field for name, field in version.value.items() if name not in ("createdAt", "deletedAt")}
    metadata = value.get("metadata")
    if isinstance(metadata, dict) and isinstance(chunks := metadata.get(CHUNKS_FIELD), dict):
        pieces = {name: field for name, field in chunks.items() if name != "entryIds"}
        value["metadata"] = {**metadata, CHUNKS_FIELD: pieces}
    return value
