"""
The read model of the agent sessions store: which transcript lines there are, in which order, and what was deleted.

Everything here is a function of the set of entries, whatever order they arrived in. Lines sort by entry id, so what
a replica appended after it had seen another's lines sorts behind them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, NamedTuple, final

from agentlayers.errors import MalformedMessageError, UsageError
from agentlayers.eventlog.event import Event, EventGroup
from agentlayers.journal.entry import Entry
from agentlayers.journal.entry_id import entry_id_millis
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.key_value.keys import pack_key, prefix_end
from agentlayers.limits import ENTRY_ID_BYTES
from agentlayers.protocol.payload import decode_payload

__all__ = [
    "DELETION_EVENT",
    "LINE_EVENT",
    "SESSION_EVENTS",
    "STORE",
    "Transcript",
    "TranscriptLine",
    "deleted_up_to",
    "held_lines",
    "hidden_lines",
    "idle_sessions",
    "knows_transcript",
    "last_line_id",
    "line_ids",
    "line_is_held",
    "project_entry",
    "projects_of",
    "retract_entry",
    "transcripts_in",
]

STORE: Final = "agent_sessions"
LINE_EVENT: Final = "agent_session_line"
DELETION_EVENT: Final = "agent_session_deleted"


def _primary_key(fields: Mapping[str, Any]) -> str:
    subpath = fields.get("subpath")
    named = f"{fields['projectKey']}:{fields['sessionId']}"
    return f"{named}:{subpath}" if subpath else named


SESSION_EVENTS: Final = EventGroup.append_only(
    Event(LINE_EVENT, _primary_key),
    Event(DELETION_EVENT, _primary_key),
)
"""Every line is kept; a deletion is one more entry, which hides the lines that sort before it."""


class Transcript(NamedTuple):
    """
    Names one transcript.

    Attributes:
        project: Of the directory the session belongs to, in the command's spelling.
        session: The session.
        subpath: Of a subagent's transcript; empty for the session's own.
    """

    project: str
    session: str
    subpath: str = ""

    @classmethod
    def from_key(cls, key: Mapping[str, Any]) -> Transcript:
        """
        Read claude-agent-sdk's ``SessionKey``.

        Raises:
            UsageError: It is none.
        """
        project, session, subpath = key.get("project_key"), key.get("session_id"), key.get("subpath") or ""
        if not (isinstance(project, str) and isinstance(session, str) and session and isinstance(subpath, str)):
            raise UsageError(f"a session key needs a project_key and a session_id, both texts; got {dict(key)!r}")
        return cls(project, session, subpath)

    @property
    def main(self) -> Transcript:
        """The transcript of the session itself."""
        return self._replace(subpath="")

    def to_payload(self) -> dict[str, Any]:
        """Return the fields that name it in an entry."""
        fields = {"projectKey": self.project, "sessionId": self.session}
        return {**fields, "subpath": self.subpath} if self.subpath else fields


@final
@dataclass(frozen=True, slots=True)
class TranscriptLine:
    """
    One line of a transcript.

    Attributes:
        transcript: Which.
        uuid: Makes the line one that is appended once only; empty if it has none.
        text: The line, JSON. Kept as text, because it has to come back as it was, whatever it holds.
    """

    transcript: Transcript
    uuid: str
    text: str

    @classmethod
    def from_record(cls, transcript: Transcript, record: Mapping[str, Any]) -> TranscriptLine:
        """
        Write down one record.

        Raises:
            UsageError: It holds what JSON cannot.
        """
        try:
            text = json.dumps(record, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UsageError(f"a transcript line must be JSON: {error}") from error
        uuid = record.get("uuid")
        return cls(transcript, uuid if isinstance(uuid, str) else "", text)

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> TranscriptLine:
        """
        Read an entry's payload.

        Raises:
            MalformedMessageError: It holds no line.
        """
        text, uuid = payload.get("line"), payload.get("uuid", "")
        if not isinstance(text, str) or not isinstance(uuid, str):
            raise MalformedMessageError(f"{LINE_EVENT}: line must be a text")
        return cls(_transcript(payload), uuid, text)

    def to_payload(self) -> dict[str, Any]:
        """Return the entry's payload."""
        named = {"uuid": self.uuid} if self.uuid else {}
        return {**self.transcript.to_payload(), **named, "line": self.text}

    def record(self) -> dict[str, Any]:
        """Return what was written down."""
        found = json.loads(self.text)
        if not isinstance(found, dict):
            raise MalformedMessageError(f"{LINE_EVENT}: the line is no JSON object")
        return found


# -- keeping it up to date ----------------------------------------------------------------------------------
def project_entry(tx: JournalTransaction, entry: Entry) -> TranscriptLine | None:
    """Add an entry to the read model; returns the line that it is."""
    payload = decode_payload(entry.payload)
    if entry.event == DELETION_EVENT:
        key = _deletion_key(_transcript(payload))
        tx.put(key, max(entry.id, tx.get(key) or b""))
        return None
    line = TranscriptLine.from_payload(payload)
    line.record()  # what is no line must show up as unapplied, not break whoever reads
    tx.put(_line_prefix(line.transcript) + entry.id, b"")
    if line.uuid:
        tx.put(_uuid_prefix(line.transcript, line.uuid) + entry.id, b"")
    if last_line_id(tx, line.transcript) < entry.id:
        _put_last(tx, line.transcript, entry.id)
    return line


def retract_entry(tx: JournalTransaction, entry: Entry) -> None:
    """Take a dropped entry out of the read model; a deletion stays in force."""
    if entry.event != LINE_EVENT:
        return
    try:
        line = TranscriptLine.from_payload(decode_payload(entry.payload))
    except MalformedMessageError:
        return  # it was never in the read model
    tx.delete(_line_prefix(line.transcript) + entry.id)
    if line.uuid:
        tx.delete(_uuid_prefix(line.transcript, line.uuid) + entry.id)
    _note_last(tx, line.transcript)


def _note_last(tx: JournalTransaction, transcript: Transcript) -> None:
    last = _last(tx, _line_prefix(transcript))
    if last is not None:
        _put_last(tx, transcript, last)
        return
    for key in (_project_key(transcript), _session_key(transcript)):
        tx.delete(key)


def _put_last(tx: JournalTransaction, transcript: Transcript, last: bytes) -> None:
    named = json.dumps(transcript).encode()
    for key in (_project_key(transcript), _session_key(transcript)):
        tx.put(key, last + named)


# -- reading ------------------------------------------------------------------------------------------------
def line_ids(tx: JournalTransaction, transcript: Transcript) -> list[bytes]:
    """List the entries of a transcript's lines in order, without those deleted."""
    prefix, deleted = _line_prefix(transcript), deleted_up_to(tx, transcript)
    rows = tx.scan(prefix + deleted, prefix_end(prefix))
    return [entry_id for key, _ in rows if (entry_id := key[-ENTRY_ID_BYTES:]) > deleted]


def last_line_id(tx: JournalTransaction, transcript: Transcript) -> bytes:
    """Return the entry of a transcript's last line, deleted or not; empty if it has none."""
    return (tx.get(_project_key(transcript)) or b"")[:ENTRY_ID_BYTES]


def line_is_held(tx: JournalTransaction, line: TranscriptLine) -> bool:
    """Tell whether a line with this uuid is in its transcript already."""
    if not line.uuid:
        return False
    last = _last(tx, _uuid_prefix(line.transcript, line.uuid))
    return last is not None and last > deleted_up_to(tx, line.transcript)


def transcripts_in(
    tx: JournalTransaction, project: str, session: str | None = None
) -> Iterator[tuple[Transcript, bytes]]:
    """Yield the transcripts of a project, or of one session in it, each with the entry of its last line."""
    prefix = pack_key(STORE, "p", project) if session is None else pack_key(STORE, "p", project, session)
    yield from _visible(tx, prefix)


def projects_of(tx: JournalTransaction, session: str) -> list[tuple[bytes, str]]:
    """List the projects that hold a session's own transcript, each after the entry of its last line."""
    found = _visible(tx, pack_key(STORE, "s", session))
    return [(last, transcript.project) for transcript, last in found if not transcript.subpath]


def knows_transcript(tx: JournalTransaction, transcript: Transcript) -> bool:
    """Tell whether anything was ever appended or deleted under this name here."""
    return tx.get(_project_key(transcript)) is not None or tx.get(_deletion_key(transcript)) is not None


def hidden_lines(tx: JournalTransaction) -> list[bytes]:
    """List the entries of all lines that were deleted and are still held."""
    hidden = []
    prefix = pack_key(STORE, "p")
    for _key, value in tx.scan(prefix, prefix_end(prefix)):
        transcript = _named(value)
        lines, deleted = _line_prefix(transcript), deleted_up_to(tx, transcript)
        if deleted:
            rows = tx.scan(lines, prefix_end(lines + deleted))
            hidden += [key[-ENTRY_ID_BYTES:] for key, _ in rows]
    return hidden


def idle_sessions(tx: JournalTransaction, before_ms: int) -> list[list[Transcript]]:
    """List the sessions, each with its subagents' transcripts, whose last line is from before a time; none deleted."""
    prefix = pack_key(STORE, "p")
    found = ((_named(value), value[:ENTRY_ID_BYTES]) for _key, value in tx.scan(prefix, prefix_end(prefix)))
    idle = []
    # A session's transcripts stand one behind the other.
    for _session, members in groupby(found, key=lambda item: item[0].main):
        transcripts = list(members)
        is_deleted = all(last <= deleted_up_to(tx, transcript) for transcript, last in transcripts)
        if not is_deleted and max(entry_id_millis(last) for _transcript, last in transcripts) < before_ms:
            idle.append([transcript for transcript, _last in transcripts])
    return idle


def held_lines(tx: JournalTransaction, transcript: Transcript) -> list[bytes]:
    """List the entries of all lines of a transcript in order, deleted or not."""
    prefix = _line_prefix(transcript)
    return [key[-ENTRY_ID_BYTES:] for key, _ in tx.scan(prefix, prefix_end(prefix))]


def deleted_up_to(tx: JournalTransaction, transcript: Transcript) -> bytes:
    """Return the entry of the last deletion that covers a transcript; a session's covers its subagents' too."""
    own = tx.get(_deletion_key(transcript)) or b""
    return max(own, tx.get(_deletion_key(transcript.main)) or b"") if transcript.subpath else own


def _visible(tx: JournalTransaction, prefix: bytes) -> Iterator[tuple[Transcript, bytes]]:
    for _key, value in tx.scan(prefix, prefix_end(prefix)):
        transcript, last = _named(value), value[:ENTRY_ID_BYTES]
        if last > deleted_up_to(tx, transcript):
            yield transcript, last


def _named(value: bytes) -> Transcript:
    return Transcript(*json.loads(value[ENTRY_ID_BYTES:]))


def _last(tx: JournalTransaction, prefix: bytes) -> bytes | None:
    for key, _ in tx.scan(prefix, prefix_end(prefix), reverse=True, limit=1):
        return key[-ENTRY_ID_BYTES:]
    return None


def _line_prefix(transcript: Transcript) -> bytes:
    return pack_key(STORE, "l", *transcript)


def _uuid_prefix(transcript: Transcript, uuid: str) -> bytes:
    return pack_key(STORE, "u", *transcript, uuid)


def _project_key(transcript: Transcript) -> bytes:
    return pack_key(STORE, "p", *transcript)


def _session_key(transcript: Transcript) -> bytes:
    return pack_key(STORE, "s", transcript.session, transcript.project, transcript.subpath)


def _deletion_key(transcript: Transcript) -> bytes:
    return pack_key(STORE, "d", *transcript)


def _transcript(payload: Mapping[str, Any]) -> Transcript:
    parts = (payload.get("projectKey"), payload.get("sessionId"), payload.get("subpath", ""))
    if not all(isinstance(part, str) for part in parts):
        raise MalformedMessageError(f"{STORE}: projectKey, sessionId and subpath must be texts")
    return Transcript(*map(str, parts))
