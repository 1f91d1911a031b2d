"""
Tell which lines of a transcript a replica has already, also from an agent that ran here and was recorded.

What was imported before is known by its id. What an agent's recorder wrote has other ids, so it is known by the line's
own uuid; prompts, which have none when they are recorded, by what they say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, final

from agentlayers.errors import AgentLayersError
from agentlayers.journal.entry import Entry
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.protocol.payload import decode_payload
from agentlayers.runtime.claude_transcript_entries import IMPORTED, ArtifactDraft, ImportedLine, digest_of
from agentlayers.runtime.message import AgentMessage
from agentlayers.runtime.session_transcript import STORE as SESSIONS
from agentlayers.runtime.session_transcript import Transcript, TranscriptLine, last_line_id, line_ids, line_is_held
from agentlayers.storage.artifact import STORE as ARTIFACTS
from agentlayers.storage.artifact import artifact_key
from agentlayers.storage.chat_index import STORE as CHAT
from agentlayers.storage.chat_index import entry_ids, place_range, session_state
from agentlayers.storage.reading import stored_entries

__all__ = ["KnownLines", "KnownMessages", "missing", "unknown_artifacts"]


class _Message(NamedTuple):
    uuid: str
    prompt: str


@final
class KnownMessages:
    """
    The messages of one session that a chat history holds.

    Args:
        session_id: The session.
    """

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self._ids: set[bytes] = set()
        self._uuids: set[str] = set()
        self._prompts: Counter[str] = Counter()

    def unknown(self, tx: JournalTransaction, lines: Iterable[ImportedLine]) -> list[ImportedLine]:
        """List the lines whose message is not there, in order."""
        wanted = [line for line in lines if line.chat is not None]
        held = missing(tx, CHAT, [line.chat for line in wanted if line.chat is not None])
        left = [line for line in wanted if line.chat is not None and line.chat.id in held]
        if not left:
            return []
        self._look(tx)
        found, seen = [], set[str]()
        for line in left:
            if line.uuid and (line.uuid in self._uuids or line.uuid in seen):
                continue
            if self._was_recorded(line):
                continue
            seen.add(line.uuid)
            found.append(line)
        return found

    def note(self, lines: Iterable[ImportedLine]) -> None:
        """Remember what was written, so that it need not be read again."""
        for line in lines:
            if line.chat is not None:
                self._ids.add(line.chat.id)
                self._uuids.add(line.uuid)

    def _was_recorded(self, line: ImportedLine) -> bool:
        prompt = _prompt(line.message)
        if not prompt or not self._prompts[prompt]:
            return False
        self._prompts[prompt] -= 1
        return True

    def _look(self, tx: JournalTransaction) -> None:
        if session_state(tx, self._session_id).events == len(self._ids):
            return  # nobody else wrote anything
        new = [entry_id for entry_id in entry_ids(tx, *place_range(self._session_id)) if entry_id not in self._ids]
        self._ids.update(new)
        for stored in stored_entries(tx, CHAT, new):
            try:
                payload = decode_payload(stored.entry.payload)
            except AgentLayersError:
                continue
            message = payload.get("message")
            if isinstance(message, dict):
                uuid = message.get("uuid")
                self._uuids.update([uuid] if isinstance(uuid, str) else [])
                if payload.get("source") == "external":
                    self._prompts[_prompt(message)] += 1


@final
class KnownLines:
    """
    The lines of one transcript that a session store holds.

    Args:
        transcript: Which one.
    """

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._ids: set[bytes] = set()
        self._last = b""
        self._digests: Counter[bytes] = Counter()

    def unknown(self, tx: JournalTransaction, lines: Sequence[ImportedLine]) -> list[ImportedLine]:
        """List the lines that are not there, in order."""
        absent = missing(tx, SESSIONS, [line.line for line in lines])
        left = [line for line in lines if line.line.id in absent]
        if any(not line.uuid for line in left):
            self._look(tx)
        found, seen = [], set[str]()
        for line in left:
            if line.uuid:
                if line.uuid in seen or line_is_held(tx, TranscriptLine(self._transcript, line.uuid, "")):
                    continue
                seen.add(line.uuid)
            elif self._digests[line.digest]:
                self._digests[line.digest] -= 1
                continue
            found.append(line)
        return found

    def note(self, lines: Iterable[ImportedLine]) -> None:
        """Remember what was written, so that it need not be read again."""
        written = [line.line.id for line in lines]
        self._ids.update(written)
        self._last = max([self._last, *written])

    def _look(self, tx: JournalTransaction) -> None:
        last = last_line_id(tx, self._transcript)
        if last == self._last:
            return  # nobody else wrote anything
        self._last = last
        new = [entry_id for entry_id in line_ids(tx, self._transcript) if entry_id not in self._ids]
        self._ids.update(new)
        for stored in stored_entries(tx, SESSIONS, new):
            payload = decode_payload(stored.entry.payload)
            if not payload.get("uuid") and not payload.get(IMPORTED):
                self._digests[digest_of(TranscriptLine.from_payload(payload).record())] += 1


def missing(tx: JournalTransaction, store: str, entries: Sequence[Entry]) -> set[bytes]:
    """Return the ids of entries that a journal neither holds nor has compacted."""
    number = tx.store_number(store)
    ids = [entry.id for entry in entries]
    absent = set(ids) - set(tx.held(number, ids))
    return absent - tx.compacted(number, list(absent)) if absent else absent


def unknown_artifacts(tx: JournalTransaction, drafts: Iterable[ArtifactDraft]) -> list[ArtifactDraft]:
    """List the results that no artifact was ever made of, be it deleted or dropped since."""
    number, found = tx.store_number(ARTIFACTS), dict[str, ArtifactDraft]()
    for draft in drafts:
        key = artifact_key(draft.record.session_id, draft.record.id)
        if key not in found and tx.key_state(number, key) is None:
            found[key] = draft
    return list(found.values())


def _prompt(message: Any) -> str:
    view = AgentMessage(message)
    return view.text if view.type == "user" and not view.tool_results else ""
