"""
The read model of artifacts: which are shown, where they stand in their session, how large they are.

Rows are a function of a key's heads and the conflict policy, never of the order in which entries
came. Content is not stored twice: a row names the entry that holds it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from agentlayers.errors import MalformedMessageError
from agentlayers.journal.conflict_policy import ConflictPolicy, Resolution, Version
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.key_value.keys import pack_key, prefix_end
from agentlayers.storage.artifact import STORE, ArtifactRecord
from agentlayers.storage.artifact_chunk_index import set_references
from agentlayers.storage.storage_config import ArtifactRetention

__all__ = [
    "STORE",
    "ArtifactRow",
    "SessionTotals",
    "not_kept",
    "readable_heads",
    "resolve_heads",
    "row_of",
    "rows_of_id",
    "rows_of_session",
    "session_prefix",
    "sessions",
    "totals_of",
    "write_row",
]

_FIXED: Final = struct.Struct(">QQ16sHH")
_NO_WINNER: Final = bytes(16)
_TOTALS: Final = struct.Struct(">QQ")


@dataclass(frozen=True, slots=True)
class ArtifactRow:
    """
    What the read model knows of one artifact that has at least one live version.

    Attributes:
        primary_key: Key of its entries.
        session_id: Its session.
        artifact_id: Its name.
        created_at_ms: Its place in the session.
        size_bytes: Of its content.
        winner: The only head; empty when there are several and the policy has to be asked at each
            read, so that a replica that is given another policy shows what that one decides.
    """

    primary_key: str
    session_id: str
    artifact_id: str
    created_at_ms: int
    size_bytes: int
    winner: bytes

    def encode(self) -> bytes:
        """Return the row as it is kept."""
        session, name = self.session_id.encode(), self.artifact_id.encode()
        fixed = _FIXED.pack(self.created_at_ms, self.size_bytes, self.winner or _NO_WINNER, len(session), len(name))
        return fixed + session + name + self.primary_key.encode()

    @classmethod
    def decode(cls, data: bytes) -> ArtifactRow:
        """Read a row as it was kept."""
        created, size, winner, session_bytes, name_bytes = _FIXED.unpack_from(data)
        names = data[_FIXED.size :]
        return cls(
            primary_key=names[session_bytes + name_bytes :].decode(),
            session_id=names[:session_bytes].decode(),
            artifact_id=names[session_bytes : session_bytes + name_bytes].decode(),
            created_at_ms=created,
            size_bytes=size,
            winner=b"" if winner == _NO_WINNER else winner,
        )

    @property
    def place(self) -> bytes:
        """Where it stands in its session: by creation time, then by name."""
        return pack_key(self.created_at_ms, self.artifact_id)

    @property
    def keys(self) -> tuple[bytes, bytes, bytes]:
        """The keys it is found by: primary key, name, place."""
        return (
            pack_key(STORE, "k", self.primary_key),
            pack_key(STORE, "i", self.artifact_id, self.session_id),
            session_prefix(self.session_id) + self.place,
        )


@dataclass(frozen=True, slots=True)
class SessionTotals:
    """
    How much one session has.

    Attributes:
        count: Artifacts with at least one live version.
        size_bytes: Their content together.
    """

    count: int
    size_bytes: int


def session_prefix(session_id: str) -> bytes:
    """Return what the places of one session's artifacts start with."""
    return pack_key(STORE, "l", session_id)


def row_of(tx: JournalTransaction, primary_key: str) -> ArtifactRow | None:
    """Look an artifact up by its primary key."""
    value = tx.get(pack_key(STORE, "k", primary_key))
    return None if value is None else ArtifactRow.decode(value)


def rows_of_id(tx: JournalTransaction, artifact_id: str) -> Iterator[ArtifactRow]:
    """Iterate over the artifacts of one name, one for each session that has it."""
    prefix = pack_key(STORE, "i", artifact_id)
    return (ArtifactRow.decode(value) for _key, value in tx.scan(prefix, prefix_end(prefix)))


def rows_of_session(tx: JournalTransaction, start: bytes, end: bytes, *, reverse: bool) -> Iterator[ArtifactRow]:
    """Iterate over artifacts between two places of a session."""
    return (ArtifactRow.decode(value) for _key, value in tx.scan(start, end, reverse=reverse))


def write_row(tx: JournalTransaction, primary_key: str, heads: Sequence[Version], policy: ConflictPolicy) -> None:
    """Bring the rows of one key up to date with its heads."""
    records = [_record(head) for head in readable_heads(heads) if not head.is_deletion]
    set_references(tx, primary_key, [digest for one in records if one.chunks for digest in one.chunks.digests])
    before = row_of(tx, primary_key)
    after = _row(primary_key, heads, policy)
    if after == before:
        return
    if before is not None:
        for key in before.keys:
            tx.delete(key)
        _add_to_totals(tx, before.session_id, -1, -before.size_bytes)
    if after is not None:
        for key in after.keys:
            tx.put(key, after.encode())
        _add_to_totals(tx, after.session_id, 1, after.size_bytes)


def totals_of(tx: JournalTransaction, session_id: str) -> SessionTotals:
    """Return how much a session has."""
    value = tx.get(pack_key(STORE, "t", session_id))
    return SessionTotals(0, 0) if value is None else SessionTotals(*_TOTALS.unpack_from(value))


def sessions(tx: JournalTransaction) -> list[str]:
    """List the sessions that have artifacts, sorted."""
    prefix = pack_key(STORE, "t")
    return [value[_TOTALS.size :].decode() for _key, value in tx.scan(prefix, prefix_end(prefix))]


def _add_to_totals(tx: JournalTransaction, session_id: str, count: int, size_bytes: int) -> None:
    before = totals_of(tx, session_id)
    key = pack_key(STORE, "t", session_id)
    if before.count + count == 0:
        tx.delete(key)
    else:
        totals = _TOTALS.pack(before.count + count, before.size_bytes + size_bytes)
        tx.put(key, totals + session_id.encode())


def _row(primary_key: str, heads: Sequence[Version], policy: ConflictPolicy) -> ArtifactRow | None:
    readable = readable_heads(heads)
    live = [head for head in readable if not head.is_deletion]
    if not live:
        return None
    shown = resolve_heads(readable, policy)[0] or _record(live[-1])
    return ArtifactRow(
        primary_key=primary_key,
        session_id=shown.session_id,
        artifact_id=shown.id,
        created_at_ms=shown.created_at_ms or 0,
        size_bytes=shown.size_bytes,
        winner=live[0].id if len(readable) == 1 else b"",
    )


def not_kept(newest_first: Iterable[ArtifactRow], retention: ArtifactRetention, *, now_ms: int) -> list[ArtifactRow]:
    """Choose what retention drops of one session: too old, too many, or not fitting in."""
    kept_count, kept_bytes = 0, 0
    doomed = []
    for row in newest_first:
        age_seconds = (now_ms - row.created_at_ms) / 1000
        if (
            (retention.max_age_seconds is not None and age_seconds > retention.max_age_seconds)
            or (retention.max_artifacts is not None and kept_count >= retention.max_artifacts)
            or (retention.max_artifact_bytes is not None and kept_bytes + row.size_bytes > retention.max_artifact_bytes)
        ):
            doomed.append(row)
        else:
            kept_count, kept_bytes = kept_count + 1, kept_bytes + row.size_bytes
    return doomed


def readable_heads(heads: Sequence[Version]) -> list[Version]:
    """Leave out versions that are no artifacts, so that a bad entry of a peer hides no good one."""
    return [head for head in heads if head.is_deletion or _is_readable(head)]


def resolve_heads(heads: Sequence[Version], policy: ConflictPolicy) -> tuple[ArtifactRecord | None, Resolution]:
    """
    Return what ``policy`` shows of readable heads (:obj:`None`: deleted), and what it decided.

    A merged value keeps the name and session of its parts, whatever the merge function says of
    them.
    """
    resolution = policy.resolve(heads)
    if resolution.value is None:
        return None, resolution
    fields = dict(resolution.value)
    if resolution.winner is None:
        part = next(head for head in heads if not head.is_deletion).value
        fields |= {"id": part["id"], "sessionId": part["sessionId"]}
    return ArtifactRecord.from_payload(resolution.winner or b"", fields), resolution


def _record(version: Version) -> ArtifactRecord:
    return ArtifactRecord.from_payload(version.id, version.value)


def _is_readable(version: Version) -> bool:
    try:
        _record(version)
    except MalformedMessageError:
        return False
    return True
