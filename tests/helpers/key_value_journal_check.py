"""Look at every key of a journal in a key-value store, and compare its indexes and counts with its entries."""

from __future__ import annotations

from collections import Counter
from typing import Any

from agentlayers.journal.key_value import codec, keys
from agentlayers.journal.primitives import EntryRow
from agentlayers.journal.state_codec import decode_state
from agentlayers.journal.text_search import words_of
from agentlayers.key_value import KeyValueStore
from agentlayers.key_value.keys import pack_key


async def content_of(store: KeyValueStore, name: str = "journal") -> dict[bytes, bytes]:
    """Return all pairs of a journal whose values are whole."""
    root = pack_key("journal", name)
    pairs = [pair async for page in store.scan(root) for pair in page]
    assert all(value[:1] == b"\x00" for key, value in pairs if key[len(root) :][:1] not in (keys.OWNER, keys.HEAD))
    return {key[len(root) :]: value[1:] if value[:1] == b"\x00" else value for key, value in pairs}


async def check_indexes(store: KeyValueStore, name: str = "journal") -> list[EntryRow]:
    """Fail if anything in the journal contradicts its entries; returns them."""
    content = await content_of(store, name)
    kinds: dict[bytes, dict[bytes, bytes]] = {}
    for key, value in content.items():
        kinds.setdefault(key[:1], {})[key] = value
    rows = [
        codec.decode_row(int.from_bytes(key[1:5]), keys.position_of(key), value)
        for key, value in kinds.get(b"e", {}).items()
    ]
    _same(kinds, b"i", {keys.id_key(row.store, row.id): codec.encode_place(row) for row in rows})
    _same(
        kinds,
        b"o",
        {keys.outbound_key(row.store, row.position): len(row.payload).to_bytes(4) for row in rows if row.outbound},
    )
    received = [row for row in rows if row.origin and not row.outbound]
    _same(
        kinds,
        b"f",
        {
            keys.received_key(row.store, row.position): row.origin.to_bytes(4) + len(row.payload).to_bytes(4)
            for row in received
        },
    )
    keyed = [row for row in rows if row.keyed]
    _same(
        kinds,
        b"k",
        {keys.version_key(row.store, row.primary_key, row.id): row.position.to_bytes(8) for row in keyed},
    )
    states = {key[1:]: decode_state(value) for key, value in kinds.get(b"h", {}).items()}
    assert {key[1:] for key in kinds.get(b"x", {})} == {key for key, state in states.items() if len(state.heads) > 1}
    assert set(kinds.get(b"u", {})) == {keys.unapplied_key(row.position) for row in rows if not row.applied}
    _check_counts(kinds, rows)
    _check_texts(kinds, rows)
    return sorted(rows)


def _same(kinds: dict[bytes, Any], kind: bytes, expected: dict[bytes, bytes]) -> None:
    assert kinds.get(kind, {}) == expected, kind


def _check_counts(kinds: dict[bytes, dict[bytes, bytes]], rows: list[EntryRow]) -> None:
    tallies = {int.from_bytes(key[1:]): codec.decode_tally(value) for key, value in kinds.get(b"c", {}).items()}
    remembered = Counter(int.from_bytes(key[1:5]) for key in kinds.get(b"g", {}))
    assert len(kinds.get(b"d", {})) == remembered.total()
    for store, tally in tallies.items():
        own = [row for row in rows if row.store == store]
        outbound = [row for row in own if row.outbound]
        received = [row for row in own if row.origin and not row.outbound]
        assert tally[:3] == (len(own), len(outbound), len(received))
        assert tally.compacted == remembered[store]
        assert tally.last_outbound >= max((row.position for row in outbound), default=0)
        assert tally.last_received >= max((row.position for row in received), default=0)
    assert {row.store for row in rows} <= set(tallies)
    for notes, counts in ((b"a", b"A"), (b"b", b"B")):
        counted = Counter(key[1:5] for key in kinds.get(notes, {}))
        kept = {key[1:5]: int.from_bytes(value) for key, value in kinds.get(counts, {}).items()}
        assert {remote: count for remote, count in kept.items() if count} == dict(counted)


def _check_texts(kinds: dict[bytes, dict[bytes, bytes]], rows: list[EntryRow]) -> None:
    from agentlayers.journal.key_value.text_ranges import _decode

    ids = {(row.store, row.position): row.id for row in rows}
    texts = {(int.from_bytes(key[1:5]), keys.position_of(key)): _decode(v) for key, v in kinds.get(b"t", {}).items()}
    for place, text in texts.items():
        assert ids[place] == text.entry_id
    waiting = {place for place, text in texts.items() if not text.segment}
    assert set(kinds.get(b"w", {})) == {keys.waiting_key(*place) for place in waiting}
    counts = {int.from_bytes(key[1:5]): int.from_bytes(value) for key, value in kinds.get(b"W", {}).items()}
    assert {store: count for store, count in counts.items() if count} == dict(Counter(store for store, _ in waiting))
    live = Counter(text.segment for text in texts.values() if text.segment)
    kept = {int.from_bytes(key[1:]): int.from_bytes(value) for key, value in kinds.get(b"Z", {}).items()}
    assert kept == dict(live)
    assert {int.from_bytes(key[1:]) for key in kinds.get(b"z", {})} == set(kept)
    postings = {(key[:-16], key[-8:]): value for key, value in kinds.get(b"y", {}).items()}
    for (store, position), text in texts.items():
        for word in words_of(text.text) if text.segment else ():
            key = (keys.posting_prefix(store, word[:40]) + b"\x00", text.segment.to_bytes(8))
            assert position.to_bytes(8) in [postings[key][at : at + 8] for at in range(0, len(postings[key]), 8)]
