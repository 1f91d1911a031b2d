"""The conversations of a replica at one moment, read from its files; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentlayers.errors import AgentLayersError, SettingsError

if TYPE_CHECKING:
    from agentlayers.storage.chat_event import ChatEvent
    from agentlayers.storage.snapshot import JournalSnapshot

__all__ = ["ReplicaChat", "SessionSummary", "chat_file", "open_chat"]

_CANDIDATES_MAX = 5
_PAGE = 256
_MESSAGES_FOR_A_TITLE = 20


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """
    One session.

    Attributes:
        session_id: Its id.
        title: What it is called, or how it began; may be empty.
        messages: How many it has.
        began_ms: Time of its first message.
        last_ms: When something happened in it last.
        project: Directory it was held in; may be empty.
        branch: Git branch it was on last; may be empty.
    """

    session_id: str
    title: str
    messages: int
    began_ms: int
    last_ms: int
    project: str
    branch: str


def chat_file(directory: Path) -> Path:
    """
    Return the journal file that holds a replica's chat history.

    Raises:
        StorageUnavailableError: There is no such directory, or no journal in it.
    """
    from agentlayers.storage.chat_index import STORE
    from agentlayers.storage.journal_file import journal_files
    from agentlayers.storage.replica_store import file_of_store

    journal_files(directory)
    return file_of_store(directory, STORE)


@contextmanager
def open_chat(directory: Path) -> Iterator[ReplicaChat]:
    """
    Open one moment of a replica's conversations.

    Raises:
        StorageUnavailableError: There is no journal, or it cannot be read.
        StorageCorruptionError: It is damaged, or none.
        MigrationError: A newer release wrote it.
    """
    from agentlayers.journal.sqlite.journal import JOURNAL_FILE
    from agentlayers.storage.snapshot import open_snapshot

    path = chat_file(directory)
    shared = directory / JOURNAL_FILE
    with ExitStack() as stack:
        snapshot = stack.enter_context(open_snapshot(path))
        # What is known of sessions stands in the shared journal, where transcripts are kept.
        described = snapshot
        if path != shared and shared.is_file():
            described = stack.enter_context(open_snapshot(shared))
        yield ReplicaChat(snapshot, described)


class ReplicaChat:
    """
    Reads sessions and messages.

    Args:
        snapshot: Holds the chat history.
        described: Holds the session index.
    """

    def __init__(self, snapshot: JournalSnapshot, described: JournalSnapshot) -> None:
        self.snapshot, self._described = snapshot, described

    def sessions(self) -> list[SessionSummary]:
        """List all sessions, the one in which something happened last first."""
        from agentlayers.storage.chat_index import listed_sessions

        found = [self.summary(session_id) for session_id in listed_sessions(self.snapshot.tx)]
        return sorted(found, key=lambda summary: (-summary.last_ms, summary.session_id))

    def summary(self, session_id: str) -> SessionSummary:
        """Tell what is known of a session."""
        from agentlayers.storage.chat_index import session_state
        from agentlayers.storage.session_facts import session_facts
        from agentlayers.storage.session_index import session_meta

        meta, facts = session_meta(self._described.tx, session_id), session_facts(self._described.tx, session_id)
        began, last = (meta.created_at_ms, meta.updated_at_ms) if meta is not None else self._times(session_id)
        return SessionSummary(
            session_id,
            facts.get("title") or self._title(session_id),
            session_state(self.snapshot.tx, session_id).events,
            began,
            last,
            facts.get("project", ""),
            facts.get("branch", ""),
        )

    def resolve(self, wanted: str | None, *, last: bool) -> str:
        """
        Return the session that is meant.

        Raises:
            SettingsError: None or several are, or it is not said which.
        """
        if (wanted is None) != last:
            expected = "a session's id or its first characters, or else --last"
            raise SettingsError(setting="SESSION", value=wanted, expected=expected)
        sessions = self.sessions()
        if wanted is None:
            if not sessions:
                raise SettingsError(setting="--last", value=True, expected="a replica with a session in it")
            return sessions[0].session_id
        ids = [summary.session_id for summary in sessions]
        found = [wanted] if wanted in ids else [one for one in ids if one.startswith(wanted)]
        if len(found) != 1 or not wanted:
            names = ", ".join(found[:_CANDIDATES_MAX]) + (", ..." if len(found) > _CANDIDATES_MAX else "")
            expected = f"enough characters to name one session: {names}" if found else _UNKNOWN
            raise SettingsError(setting="SESSION", value=wanted, expected=expected)
        return found[0]

    def messages(self, session_id: str, *, oldest: int | None = None, newest: int | None = None) -> Iterator[ChatEvent]:
        """
        Iterate over the messages of a session in order, a page in memory at a time.

        Args:
            session_id: The session.
            oldest: Only so many from its beginning.
            newest: Only so many from its end.
        """
        from agentlayers.storage.chat_index import STORE, entry_ids, place_range
        from agentlayers.storage.reading import stored_entries

        tx, (start, end) = self.snapshot.tx, place_range(session_id)
        if newest is not None:
            ids = list(entry_ids(tx, start, end, reverse=True, limit=newest))[::-1]
        else:
            ids = list(entry_ids(tx, start, end, limit=oldest))
        for at in range(0, len(ids), _PAGE):
            for stored in stored_entries(tx, STORE, ids[at : at + _PAGE]):
                event = decoded(stored)
                if event is not None:
                    yield event

    def after(self, position: int, session_id: str) -> Iterator[ChatEvent]:
        """Iterate over what reached this replica behind a position, in the order in which it came."""
        from agentlayers.storage.chat_index import STORE

        for stored in self.snapshot.entries(store=STORE, after=position):
            event = decoded(stored)
            if event is not None and event.session_id == session_id:
                yield event

    def last_position(self) -> int:
        """Return the position of what reached this replica last."""
        (position,) = self.snapshot.connection.execute("SELECT coalesce(max(position), 0) FROM entry").fetchone()
        return int(position)

    def _times(self, session_id: str) -> tuple[int, int]:
        ends = [*self.messages(session_id, oldest=1), *self.messages(session_id, newest=1)]
        times = [event.timestamp_ms for event in ends]
        return min(times, default=0), max(times, default=0)

    def _title(self, session_id: str) -> str:
        from agentlayers.runtime.session_title import first_prompt

        for event in self.messages(session_id, oldest=_MESSAGES_FOR_A_TITLE):
            title = first_prompt(event.message) or _plain_text(event.message)
            if title:
                return title
        return ""


_UNKNOWN = "a session of this replica, as 'agentlayers chat list' shows them"


def decoded(stored: Any) -> ChatEvent | None:
    """Return an entry as a message; :obj:`None` if it is none."""
    from agentlayers.protocol.payload import decode_payload
    from agentlayers.storage.chat_event import CHAT_EVENT, ChatEvent

    entry = stored.entry
    if entry.event != CHAT_EVENT:
        return None
    try:
        return ChatEvent.from_payload(entry.id, decode_payload(entry.payload), position=stored.position)
    except AgentLayersError:
        return None  # 'journal verify' tells of it


def _plain_text(message: Any) -> str:
    text = message.get("text", message.get("content")) if message.get("type") is None else None
    return " ".join(text.split()) if isinstance(text, str) else ""
