"""The bytes and codes of docs/reference/protocol.md, computed by our code and by the third party's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from agentlayers.crypto import AesGcmEncryption
from agentlayers.eventlog.identity import Identity
from agentlayers.protocol.decoder import decode_message
from agentlayers.protocol.encoder import encode_message
from agentlayers.protocol.entry_codec import decode_entry, encode_entry
from agentlayers.protocol.messages import (
    Ack,
    Changes,
    EncryptedEntry,
    Extensions,
    HeadDigest,
    Hello,
    Message,
    Ping,
    Pong,
    RemoteEncryptedEntry,
    RequestChanges,
    WriteEntries,
)
from agentlayers.protocol.payload import decode_payload, encode_payload
from agentlayers.server.close import CloseReason
from interop.third_party import wire

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "protocol.md").read_text(encoding="utf-8")
EXAMPLE = PAGE.partition("## One entry, byte by byte")[2].partition("\n## ")[0]
ROWS = {
    what.split()[0].strip("`:,"): value for what, value in re.findall(r"^\| (.+) \| `(\w+)` \|$", EXAMPLE, re.MULTILINE)
}
IDENTITY = Identity("alice", bytes(range(32)))
ENTRY_ID, NONCE, SEALED = (bytes.fromhex(ROWS[name]) for name in ("entry", "nonce", "sealed"))
PAYLOAD = {"text": "hi", "at": 1_795_396_104_135}
DIGEST = bytes.fromhex(ROWS["digest"])

MESSAGES: list[Message] = [
    Hello(
        bytes.fromhex("0f1e2d3c4b5a69788796a5b4c3d2e1f0"), Extensions(1, frozenset({"through"}), bytes(16), "default")
    ),
    RequestChanges("alice", 0, 8 * 2**20),
    WriteEntries("alice", 0, [EncryptedEntry(ENTRY_ID, NONCE, SEALED)]),
    Ack(0, [0], 1),
    Changes("alice", [RemoteEncryptedEntry(0, NONCE, ENTRY_ID, SEALED)], 1),
    Ping(1, {"alice": 1}),
    Pong(1, {"alice": HeadDigest(1, DIGEST)}),
]


def test_every_row_is_looked_at() -> None:
    assert len(ROWS) == 16


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_have_the_bytes_of_the_page(message: Message) -> None:
    data = bytes.fromhex(ROWS[type(message).__name__])
    options: dict[str, Any] = {"entry_nonces": True} if isinstance(message, WriteEntries) else {}

    assert encode_message(message, **options) == data
    assert encode_message(decode_message(data), **options) == data
    assert wire.encode(wire.decode(data)) == data


def test_the_entry_has_the_bytes_of_the_page() -> None:
    keys = IDENTITY.for_store("chat_history")
    payload = encode_payload(PAYLOAD)
    plaintext = encode_entry(ENTRY_ID, "note", "k1", payload)

    assert IDENTITY.encode_string() == ROWS["identity"]
    assert (keys.public_key, keys.private_key.hex()) == (ROWS["public"], ROWS["encryption"])
    assert (payload.hex(), plaintext.hex()) == (ROWS["payload"], ROWS["plaintext"])
    opened = decode_entry(AesGcmEncryption().open_sealed(keys.private_key, NONCE, SEALED))
    assert (opened[0], decode_payload(opened[3])) == (ENTRY_ID, PAYLOAD)


def test_the_third_party_computes_the_same() -> None:
    keys = wire.StoreKeys.derived(ROWS["identity"], "chat_history")
    entry = wire.Entry(ENTRY_ID, "note", "k1", PAYLOAD)
    digest = wire.Digest()
    digest.add(ENTRY_ID)

    assert (keys.public_key, keys.encryption_key.hex()) == (ROWS["public"], ROWS["encryption"])
    assert entry.sealed(keys.encryption_key, NONCE) == SEALED
    assert digest.value == DIGEST


def test_every_close_code_of_the_server_is_listed() -> None:
    listed = {int(code) for code in re.findall(r"^\| (1\d{3}) \|", PAGE, re.MULTILINE)}

    assert listed == {reason.code for reason in CloseReason}


def test_every_link_on_the_page_leads_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}

    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= anchors
