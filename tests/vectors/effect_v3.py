"""The recorded bytes of stock peers, as Python values."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

from agentlayers.protocol.messages import (
    Ack,
    Changes,
    ChunkedMessage,
    EncryptedEntry,
    Hello,
    Message,
    Ping,
    Pong,
    RemoteEncryptedEntry,
    RequestChanges,
    StopChanges,
    WriteEntries,
)
from agentlayers.protocol.payload import UNDEFINED

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "effect-v3.json").read_text())


def named(cases: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Key cases by name, for ``pytest.mark.parametrize(ids=...)``."""
    return {case["name"]: case for case in cases}


def from_json(value: Any) -> Any:
    """Undo the vectors' notation for what JSON cannot say."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"$bin"}:
        return bytes.fromhex(value["$bin"])
    if set(value) == {"$undef"}:
        return UNDEFINED
    if set(value) == {"$date"}:
        return dt.datetime.fromtimestamp(value["$date"] / 1000, dt.UTC)
    if set(value) == {"$bigint"}:
        return int(value["$bigint"])
    return {key: from_json(item) for key, item in value.items()}


def message_from_json(value: dict[str, Any]) -> Message:
    """Build the message that a recorded value describes."""
    fields = from_json(value)
    tag = fields.pop("_tag")
    key = fields.get("publicKey")
    match tag:
        case "Hello":
            return Hello(fields["remoteId"])
        case "RequestChanges":
            return RequestChanges(key, fields["startSequence"])
        case "StopChanges":
            return StopChanges(key)
        case "WriteEntries":
            iv = fields["iv"]
            sent = [EncryptedEntry(e["entryId"], iv, e["encryptedEntry"]) for e in fields["encryptedEntries"]]
            return WriteEntries(key, fields["id"], tuple(sent), iv)
        case "Ack":
            return Ack(fields["id"], tuple(fields["sequenceNumbers"]))
        case "Changes":
            received = [
                RemoteEncryptedEntry(e["sequence"], e["iv"], e["entryId"], e["encryptedEntry"])
                for e in fields["entries"]
            ]
            return Changes(key, tuple(received))
        case "Ping":
            return Ping(fields["id"])
        case "Pong":
            return Pong(fields["id"])
        case "ChunkedMessage":
            index, total = fields["part"]
            return ChunkedMessage(fields["id"], index, total, fields["data"])
    raise AssertionError(tag)
