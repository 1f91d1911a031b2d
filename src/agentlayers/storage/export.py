"""
Write what a replica holds as JSON lines that anything can read (``agentlayers journal export``).

Format ``agentlayers-journal``, version 1. The first line is the header, each further line one entry in local
arrival order (shown here on several lines)::

    {"format": "agentlayers-journal", "version": 1, "replica": "7c1e...", "journals": ["journal.sqlite"]}

    {"store": "chat_history", "id": "0192f0c1...", "event": "chat_event", "primary_key": "session:1",
     "position": 1, "time": "2026-11-23T06:13:00.000+00:00", "local": true, "applied": true, "synced": true,
     "payload": {"sessionId": "session", ...}}

``id`` is hexadecimal, ``time`` the entry id's own, ``local`` says that this replica wrote the entry,
``synced`` is false for local observations. In ``payload``, bytes are ``{"$bytes": base64}``, instants
``{"$time": ISO 8601}``, and a map whose only key begins with ``$`` is ``{"$map": {...}}``. ``raw`` holds the
entry's exact payload in base64 where encoding ``payload`` again would not give the same bytes; ``payload`` is
null where the bytes are no payload at all.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from agentlayers.errors import MalformedMessageError, UsageError
from agentlayers.journal.entry import StoredEntry
from agentlayers.journal.entry_id import entry_id_millis
from agentlayers.protocol.payload import decode_payload, encode_payload
from agentlayers.storage.digest import is_synced
from agentlayers.storage.journal_file import journal_files, read_journal_rows, read_replica_id

__all__ = ["FORMAT", "FORMAT_VERSION", "export_lines", "json_of", "payload_of_line", "read_entries"]

FORMAT: Final = "agentlayers-journal"
"""Name of the export format, in its header."""

FORMAT_VERSION: Final = 1
"""Version of the export format, in its header; a reader must refuse one it does not know."""


def read_entries(
    directory: str | Path, *, stores: Collection[str] | None = None, synced_only: bool = True
) -> Iterator[StoredEntry]:
    """
    Iterate over what a replica's files hold, read afresh; one entry in memory at a time.

    Args:
        directory: The replica's directory; its stores need not be open, nor closed.
        stores: Only these stores; all if not given.
        synced_only: Leave local observations out, as the digest does.

    Raises:
        StorageUnavailableError: There is no journal, or it cannot be read.
        StorageCorruptionError: A file is damaged, or no journal.
        MigrationError: A newer release wrote a file.
    """
    for path in journal_files(Path(directory)):
        for stored, is_observation in read_journal_rows(path, stores=stores):
            if not synced_only or is_synced(stored, is_observation=is_observation):
                yield stored


def export_lines(directory: str | Path, *, stores: Collection[str] | None = None) -> Iterator[str]:
    """
    Iterate over the lines of an export, the header first, without line ends.

    Args:
        directory: The replica's directory.
        stores: Only these stores; all if not given.

    Raises:
        StorageUnavailableError: There is no journal, or it cannot be read.
        StorageCorruptionError: A file is damaged, or no journal.
        MigrationError: A newer release wrote a file.
    """
    paths = journal_files(Path(directory))
    header = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "replica": read_replica_id(paths[0]),
        "journals": [path.name for path in paths],
    }
    yield _line(header)
    for path in paths:
        for stored, is_observation in read_journal_rows(path, stores=stores):
            yield _line(_fields(stored, is_synced=is_synced(stored, is_observation=is_observation)))


def payload_of_line(fields: Mapping[str, Any]) -> bytes:
    """
    Return the exact payload of an exported entry.

    Args:
        fields: One line, parsed.

    Raises:
        UsageError: The line has neither a payload nor raw bytes.
    """
    if "raw" in fields:
        return base64.b64decode(fields["raw"], validate=True)
    payload = fields.get("payload")
    if not isinstance(payload, Mapping):
        raise UsageError("export line: there is no payload; expected a line that 'agentlayers journal export' wrote")
    return encode_payload(_from_json(payload))


def _fields(stored: StoredEntry, *, is_synced: bool) -> dict[str, Any]:
    entry = stored.entry
    written_at = datetime.fromtimestamp(entry_id_millis(entry.id) / 1000, UTC)
    fields: dict[str, Any] = {
        "store": stored.store,
        "id": entry.id.hex(),
        "event": entry.event,
        "primary_key": entry.primary_key,
        "position": stored.position,
        "time": written_at.isoformat(timespec="milliseconds"),
        "local": stored.is_local,
        "applied": stored.is_applied,
        "synced": is_synced,
    }
    return fields | _payload_fields(entry.payload)


def _payload_fields(payload: bytes) -> dict[str, Any]:
    try:
        decoded = json_of(decode_payload(payload))
        # The line itself is what a reader gets, so the line is what has to give the bytes again.
        is_exact = encode_payload(_from_json(json.loads(_line(decoded)))) == payload
    except (MalformedMessageError, UsageError):
        return {"payload": None, "raw": base64.b64encode(payload).decode("ascii")}
    return {"payload": decoded} if is_exact else {"payload": decoded, "raw": base64.b64encode(payload).decode()}


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def json_of(value: Any) -> Any:
    """Return a decoded payload as JSON can hold it; see the format above."""
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, datetime):
        return {"$time": value.isoformat()}
    if isinstance(value, Mapping):
        plain = {key: json_of(item) for key, item in value.items()}
        return {"$map": plain} if len(plain) == 1 and next(iter(plain)).startswith("$") else plain
    if isinstance(value, list):
        return [json_of(item) for item in value]
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if len(value) == 1:
        ((key, item),) = value.items()
        if key == "$bytes":
            return base64.b64decode(item, validate=True)
        if key == "$time":
            return datetime.fromisoformat(item)
        if key == "$map":
            return {name: _from_json(inner) for name, inner in item.items()}
    return {key: _from_json(item) for key, item in value.items()}
