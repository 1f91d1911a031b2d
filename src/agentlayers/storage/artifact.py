"""
One artifact: a file, a tool's result or a summary that belongs to a session.

``artifact_record`` and ``artifact_deleted`` of one id are versions of one key. Content is text or
bytes; on the wire bytes travel as base64, as the reference does it. Large content travels apart, see
:mod:`~agentlayers.storage.artifact_chunk`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from agentlayers.errors import MalformedMessageError, UsageError
from agentlayers.journal.conflict_policy import Resolution, Version
from agentlayers.storage.artifact_chunk import CHUNKS_FIELD, ContentChunks
from agentlayers.storage.payload_field import PayloadFields, required_text, without_nones

__all__ = [
    "ARTIFACT_DELETED",
    "ARTIFACT_RECORD",
    "STORE",
    "ArtifactConflict",
    "ArtifactKind",
    "ArtifactRecord",
    "ArtifactVersion",
    "artifact_key",
]

ARTIFACT_RECORD: Final = "artifact_record"
"""Tag of an entry that gives an artifact its content."""

ARTIFACT_DELETED: Final = "artifact_deleted"
"""Tag of an entry that marks an artifact as deleted."""

STORE: Final = "artifacts"
"""Name of the store in journals, YAML and key derivation."""

ArtifactKind = Literal["file", "tool_result", "summary", "image", "other"]
"""What an artifact is."""

_KINDS: Final = get_args(ArtifactKind)


def artifact_key(session_id: str, artifact_id: str) -> str:
    """
    Return the primary key of an artifact's entries.

    >>> artifact_key("session", "result-1")
    'session:result-1'

    """
    return f"{session_id}:{artifact_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRecord:
    """
    An artifact with its content.

    Attributes:
        id: Name of the artifact within its session; putting the same one again replaces it.
        session_id: The session it belongs to.
        kind: What it is.
        content: Text or bytes; what was put is what is got, in type and value. Empty where large
            content was not asked for or is not all here (see :attr:`chunks`).
        content_type: Media type, such as ``text/plain``.
        tool_name: The tool that made it.
        tool_use_id: The tool call that made it.
        hook_event: The hook that made it.
        created_at_ms: When it was made, in milliseconds since 1970; :obj:`None` lets the store
            decide (the time of the put, or that of the version it replaces).
        metadata: More about it, as far as MessagePack can say it.
        entry_id: Id of the version's entry; empty before it was put, and for a merged value.
        chunks: Where large content is; :obj:`None` for content that travels in the record.
        is_complete: All of the content is on this replica. Chunks may arrive after the record that
            refers to them.
    """

    id: str
    session_id: str
    kind: ArtifactKind
    content: str | bytes = field(repr=False)
    content_type: str | None = None
    tool_name: str | None = None
    tool_use_id: str | None = None
    hook_event: str | None = None
    created_at_ms: int | None = None
    metadata: Mapping[str, Any] | None = None
    entry_id: bytes = b""
    chunks: ContentChunks | None = field(default=None, repr=False)
    is_complete: bool = field(default=True, compare=False)

    def __post_init__(self) -> None:
        required_text("artifact id", self.id)
        required_text("session_id", self.session_id)
        if self.kind not in _KINDS:
            raise UsageError(f"kind: {self.kind!r} cannot be used; expected one of {', '.join(_KINDS)}")
        if not isinstance(self.content, str | bytes):
            raise UsageError(f"content: {type(self.content).__name__} cannot be stored; expected str or bytes")

    @property
    def size_bytes(self) -> int:
        """Length of the content in bytes (of a text: in UTF-8), whether it is loaded or not."""
        if self.chunks is not None:
            return self.chunks.size_bytes
        return len(self.content) if isinstance(self.content, bytes) else len(self.content.encode())

    @property
    def encoding(self) -> Literal["utf8", "base64"]:
        """How the content travels."""
        return "utf8" if isinstance(self.content, str) else "base64"

    @property
    def data(self) -> bytes:
        """The content as bytes, whatever was put."""
        return self.content if isinstance(self.content, bytes) else self.content.encode()

    def to_payload(self) -> dict[str, Any]:
        """Return the fields that go on the wire; content that is in chunks is left out."""
        content, metadata = self._encoded_content(), self.metadata
        if self.chunks is not None:
            content, metadata = "", {**(metadata or {}), CHUNKS_FIELD: self.chunks.to_metadata()}
        return without_nones(
            {
                "id": self.id,
                "sessionId": self.session_id,
                "kind": self.kind,
                "toolName": self.tool_name,
                "toolUseId": self.tool_use_id,
                "hookEvent": self.hook_event,
                "contentType": self.content_type,
                "encoding": self.encoding,
                "content": content,
                "sizeBytes": self.size_bytes,
                "createdAt": self.created_at_ms or 0,
                "metadata": None if metadata is None else dict(metadata),
            }
        )

    def _encoded_content(self) -> str:
        return self.content if isinstance(self.content, str) else base64.b64encode(self.content).decode("ascii")

    @classmethod
    def from_payload(cls, entry_id: bytes, payload: Mapping[str, Any]) -> ArtifactRecord:
        """
        Read the fields of an entry, whoever wrote it.

        Raises:
            MalformedMessageError: A field is missing, of the wrong type, or content that is not
            base64.
        """
        fields = PayloadFields(ARTIFACT_RECORD, payload)
        content = _decode_content(fields.text("encoding"), fields.text("content"))
        chunks, metadata = None, fields.optional_mapping("metadata")
        if not content and metadata is not None:
            chunks, metadata = _split_metadata(metadata)
        try:
            return cls(
                id=fields.text("id"),
                session_id=fields.text("sessionId"),
                kind=fields.text("kind"),  # type: ignore[arg-type]  # checked by the constructor
                content=content,
                content_type=fields.optional_text("contentType"),
                tool_name=fields.optional_text("toolName"),
                tool_use_id=fields.optional_text("toolUseId"),
                hook_event=fields.optional_text("hookEvent"),
                created_at_ms=fields.integer("createdAt"),
                metadata=metadata,
                entry_id=entry_id,
                chunks=chunks,
            )
        except UsageError as error:
            raise MalformedMessageError(f"{ARTIFACT_RECORD}: {error}") from error


def _split_metadata(metadata: Mapping[str, Any]) -> tuple[ContentChunks | None, Mapping[str, Any] | None]:
    """Take the list of chunks out of metadata; what is none is the user's own."""
    chunks = ContentChunks.from_metadata(metadata.get(CHUNKS_FIELD))
    if chunks is None:
        return None, metadata
    return chunks, {name: value for name, value in metadata.items() if name != CHUNKS_FIELD} or None


def _decode_content(encoding: str, content: str) -> str | bytes:
    if encoding == "utf8":
        return content
    if encoding != "base64":
        raise MalformedMessageError(f"{ARTIFACT_RECORD}: encoding is {encoding[:40]!r}; expected utf8 or base64")
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise MalformedMessageError(f"{ARTIFACT_RECORD}: content is not base64: {error}") from error


@dataclass(frozen=True, slots=True)
class ArtifactVersion:
    """
    One version of an artifact, shown or not.

    Attributes:
        entry_id: Id of its entry; later ids were written later.
        replica: Which replica wrote it; ``"?"`` for a stock peer.
        record: Its content; :obj:`None` for a deletion.
        is_head: No other version supersedes it.
    """

    entry_id: bytes
    replica: str
    record: ArtifactRecord | None
    is_head: bool


@dataclass(frozen=True, slots=True)
class ArtifactConflict:
    """
    An artifact with several versions that did not know of each other.

    Attributes:
        session_id: Its session.
        artifact_id: Its name.
        heads: The versions nothing supersedes, sorted by entry id.
        resolution: What the conflict policy shows.
    """

    session_id: str
    artifact_id: str
    heads: tuple[Version, ...]
    resolution: Resolution
