"""
Turn the lines of a transcript into entries whose ids follow from the lines alone.

Whoever imports the same file makes the same entries: an id carries the line's time and its place in the file, and a
hash of everything the entry says. So importing again, or on several machines that sync, adds nothing twice, and one id
never stands for two things. Pure: no I/O, no clock, no randomness.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, final

from agentlayers.errors import UsageError
from agentlayers.journal.causality import causal_payload
from agentlayers.journal.entry import Entry
from agentlayers.journal.entry_id import entry_id_millis, next_entry_id
from agentlayers.limits import ARTIFACT_CHUNK_BYTES, ARTIFACT_INLINE_BYTES_MAX, PAYLOAD_DEPTH_MAX
from agentlayers.protocol.payload import encode_payload
from agentlayers.runtime.claude_transcript_reader import ReadLine
from agentlayers.runtime.message import AgentMessage
from agentlayers.runtime.session_transcript import LINE_EVENT, SESSION_EVENTS, STORE, Transcript, TranscriptLine
from agentlayers.runtime.tool_artifacts import artifact_of
from agentlayers.storage.artifact import ARTIFACT_RECORD, ArtifactRecord, artifact_key
from agentlayers.storage.artifact import STORE as ARTIFACTS
from agentlayers.storage.artifact_chunk import (
    ARTIFACT_CHUNK,
    CONTENT_STORE,
    ContentChunks,
    chunk_key,
    chunk_payload,
    digest_of_chunk,
    digest_of_key,
)
from agentlayers.storage.chat_event import CHAT_EVENT, ChatEvent
from agentlayers.storage.chat_index import STORE as CHAT

__all__ = ["IMPORTED", "ArtifactDraft", "EntryMaker", "ImportedLine", "artifact_entries", "digest_of", "sidecar_entry"]

IMPORTED: Final = "imported"
"""Payload field of a transcript line that came from a file, not from an agent that ran here."""

WRITER: Final = "claude-code"
"""Who wrote an imported artifact: the same whoever imports it, so that it is one version."""

_CONVERSATION: Final = frozenset({"user", "assistant", "system"})
_BOOKKEEPING: Final = frozenset(
    {
        "apiBlockIndex", "attributionAgent", "cwd", "effort", "entrypoint", "gitBranch", "madeBy", "perTurnEffort",
        "promptCacheRequested", "promptId", "promptSource", "requestRef", "requestedModel", "sessionId", "slug",
        "sourceToolAssistantUUID", "toolInputStreamMs", "toolUseResult", "turnOrigin", "turnPosition", "userType",
        "version",
    }
)  # fmt: skip
"""What stands on every line and is not said by anybody; the line itself, kept beside the message, has it all."""

_TIMELESS: Final = 1_735_689_600_000
"""2025-01-01, before the first transcript: the time of lines that stand before any that tells theirs."""

_INTEGER_MAX: Final = (1 << 53) - 1
_DEPTH_MAX: Final = PAYLOAD_DEPTH_MAX // 2
_CALLS_MAX: Final = 256
_ENTROPY_BYTES: Final = 6
_INSTANT_MAX: Final = (1 << 48) - 1


class ArtifactDraft(NamedTuple):
    """A tool's result on its way to becoming an artifact."""

    record: ArtifactRecord
    instant_ms: int
    before: bytes


class ImportedLine(NamedTuple):
    """
    What one line becomes.

    Attributes:
        line: The line itself, for resuming the session.
        uuid: Of the line; empty if it has none.
        digest: Of what the line says, however it is spelt.
        chat: The message, if it is part of the conversation.
        message: What the chat entry says.
        artifacts: Results of tools that it carries.
    """

    line: Entry
    uuid: str
    digest: bytes
    chat: Entry | None
    message: Mapping[str, Any]
    artifacts: tuple[ArtifactDraft, ...]


@final
@dataclass(slots=True)
class EntryMaker:
    """
    Makes the entries of one transcript, line after line from its beginning, or from where a state was kept.

    Attributes:
        transcript: Which one.
        parent_tool_use_id: The call a subagent works for.
        last: What the next id follows; a function of the lines read so far.
        calls: Names of tools that were called and have not answered, by call.
    """

    transcript: Transcript
    parent_tool_use_id: str | None = None
    last: bytes = b""
    calls: dict[str, str] = field(default_factory=dict)

    def entries_of(self, line: ReadLine) -> ImportedLine:
        """
        Turn the next line into entries.

        Raises:
            AgentLayersError: It says what no entry can hold; the next line can be read all the same.
        """
        before = self.last
        said_ms = _instant(line.record.get("timestamp"))
        floor_ms = _TIMELESS if said_ms is None and not before else said_ms or 0
        # Times in a file go back and forth a little, its order does not: ids ascend, whatever the times say.
        self.last = next_entry_id(floor_ms, before, 0)
        uuid = line.record.get("uuid")
        chat, message, artifacts = self._conversation(line.record, said_ms, floor_ms, before)
        payload = {**TranscriptLine(self.transcript, _text(uuid), line.text).to_payload(), IMPORTED: True}
        key = SESSION_EVENTS.event(LINE_EVENT).primary_key(payload)
        entry = _entry(STORE, LINE_EVENT, key, payload, floor_ms, before)
        return ImportedLine(entry, _text(uuid), digest_of(line.record), chat, message, artifacts)

    def _conversation(
        self, record: Mapping[str, Any], said_ms: int | None, floor_ms: int, before: bytes
    ) -> tuple[Entry | None, Mapping[str, Any], tuple[ArtifactDraft, ...]]:
        if record.get("type") not in _CONVERSATION:
            return None, {}, ()
        session, reached_ms = self.transcript.session, entry_id_millis(self.last)
        message = self._message(record)
        event = ChatEvent(session, reached_ms, reached_ms if said_ms is None else said_ms, "replay", message, b"")
        try:
            chat = _entry(CHAT, CHAT_EVENT, event.primary_key, event.to_payload(), floor_ms, before)
        except UsageError:
            message = {name: _writable(value) for name, value in message.items()}
            event = replace(event, message=message)
            chat = _entry(CHAT, CHAT_EVENT, event.primary_key, event.to_payload(), floor_ms, before)
        drafts = []
        view = AgentMessage(message)
        for result in view.tool_results:
            name = self.calls.pop(result.tool_use_id, None)
            if result.tool_use_id:
                made = artifact_of(result, session_id=session, tool_name=name, created_at_ms=event.timestamp_ms)
                if isinstance(made.content, str):
                    # A text that was cut inside a character has half of one, which is no Unicode.
                    made = replace(made, content=made.content.encode(errors="replace").decode())
                drafts.append(ArtifactDraft(made, floor_ms, before))
        for use in view.tool_uses:
            self.calls[use.id] = use.name
        while len(self.calls) > _CALLS_MAX:
            del self.calls[next(iter(self.calls))]
        return chat, message, tuple(drafts)

    def _message(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Name the fields as in the messages of a running agent, so that readers know one shape."""
        message = {name: value for name, value in record.items() if name not in _BOOKKEEPING}
        message["session_id"] = self.transcript.session
        message.setdefault("parent_tool_use_id", self.parent_tool_use_id)
        if "toolUseResult" in record:
            message["tool_use_result"] = record["toolUseResult"]
        return message


def artifact_entries(draft: ArtifactDraft) -> tuple[Entry, list[Entry]]:
    """
    Make the entries of an artifact.

    Returns:
        The record, and the pieces it refers to where its content is large; those are of a store of their own.

    Raises:
        AgentLayersError: It says what no entry can hold.
    """
    record, pieces = draft.record, list[Entry]()
    if record.size_bytes > ARTIFACT_INLINE_BYTES_MAX:
        pieces = [_piece(draft, start) for start in range(0, record.size_bytes, ARTIFACT_CHUNK_BYTES)]
        digests = tuple(digest_of_key(piece.primary_key) for piece in pieces)
        chunks = ContentChunks(record.size_bytes, digests, tuple(piece.id for piece in pieces))
        record = replace(record, content=record.content[:0], chunks=chunks)
    payload = causal_payload(record.to_payload(), WRITER, {})
    key = artifact_key(record.session_id, record.id)
    return _entry(ARTIFACTS, ARTIFACT_RECORD, key, payload, draft.instant_ms, draft.before), pieces


def _piece(draft: ArtifactDraft, start: int) -> Entry:
    data = draft.record.data[start : start + ARTIFACT_CHUNK_BYTES]
    digest = digest_of_chunk(data)
    payload = chunk_payload(digest, data)
    return _entry(CONTENT_STORE, ARTIFACT_CHUNK, chunk_key(digest), payload, draft.instant_ms, draft.before)


def sidecar_entry(transcript: Transcript, sidecar: Mapping[str, Any], began_ms: int) -> Entry:
    """
    Make the entry of what stands beside a subagent's transcript, in the words of claude-agent-sdk.

    Args:
        transcript: The subagent's.
        sidecar: What it says.
        began_ms: When the transcript began.
    """
    text = json.dumps({**sidecar, "type": "agent_metadata"}, separators=(",", ":"))
    payload = {**TranscriptLine(transcript, "", text).to_payload(), IMPORTED: True}
    key = SESSION_EVENTS.event(LINE_EVENT).primary_key(payload)
    # It grows while the subagent works, and whoever reads it takes the last one.
    return _entry(STORE, LINE_EVENT, key, payload, began_ms + len(text), b"")


def digest_of(record: Mapping[str, Any]) -> bytes:
    """Return a hash of what a line says, the same however its JSON is spelt."""
    spelt = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(spelt.encode()).digest()[:16]


def _entry(store: str, event: str, key: str, payload: Mapping[str, Any], floor_ms: int, before: bytes) -> Entry:
    encoded = encode_payload(payload)
    told = hashlib.sha256(b"\x00".join((store.encode(), event.encode(), key.encode(errors="replace"), encoded)))
    entropy = int.from_bytes(told.digest()[:_ENTROPY_BYTES])
    return Entry(next_entry_id(floor_ms, before, entropy), event, key, encoded)


def _writable(value: Any, depth: int = 0) -> Any:
    """Turn what JSON can hold and an entry cannot into text."""
    if isinstance(value, int) and not -_INTEGER_MAX <= value <= _INTEGER_MAX:
        return str(value)
    if isinstance(value, dict | list) and depth > _DEPTH_MAX:
        return json.dumps(value)
    if isinstance(value, dict):
        return {name: _writable(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list):
        return [_writable(item, depth + 1) for item in value]
    return value


def _instant(value: Any) -> int | None:
    """Read a time such as ``2026-11-23T09:03:47.930Z`` as Unix milliseconds; :obj:`None` if it is none."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    aware = found if found.tzinfo else found.replace(tzinfo=UTC)
    # Exact, unlike a float of seconds: the id must be the same on every machine.
    millis = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // _MILLISECOND
    return millis if 0 < millis <= _INSTANT_MAX else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value.isascii() else ""


_MILLISECOND: Final = datetime.resolution * 1000
