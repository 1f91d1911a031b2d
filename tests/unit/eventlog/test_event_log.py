"""An event log is one store of a journal, with the keys its entries are sealed with."""

import asyncio

import pytest

from agentlayers.errors import StateError
from agentlayers.eventlog.event import Event
from agentlayers.eventlog.event_log import EventLog
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.journal.memory.journal import MemoryJournal
from agentlayers.protocol.payload import decode_payload

IDENTITY = Identity.generate(lambda count: bytes(range(count)))


async def test_it_writes_reads_and_follows_its_store_only() -> None:
    """Another store of the journal stays out of sight."""
    async with MemoryJournal() as journal:
        log = EventLog(journal, IDENTITY, StoreSchema(name="audit_log"))
        other = EventLog(journal, IDENTITY, StoreSchema(name="chat_history"))
        await log.open()
        await other.open()
        changes = log.changes(after=0)
        await other.write("chat_event", "s", {})
        first = await log.write("tool_use", "k", {"a": 1})
        second = await log.write_event(Event("hook", lambda p: f"hook:{p['n']}"), {"n": 2})
        followed = [(await anext(changes)).entry, (await anext(changes)).entry]
        count = await log.read(lambda tx: len(tx.entries("audit_log")))
        third = await log.transact(lambda tx: tx.write("audit_log", "x", "k", {}))

        assert followed == [first, second]
        assert count == 2
        assert (second.event, second.primary_key) == ("hook", "hook:2")
        assert decode_payload(second.payload) == {"n": 2}
        assert (await anext(changes)).entry == third
        await changes.aclose()  # type: ignore[attr-defined]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_each_store_has_keys_of_its_own_and_replicas_of_one_identity_share_them() -> None:
    """One secret configured; nothing but the public key is ever shown."""
    journal = MemoryJournal()
    audit = EventLog(journal, IDENTITY, StoreSchema(name="audit_log"))
    again = EventLog(MemoryJournal(), IDENTITY, StoreSchema(name="audit_log"))
    chat = EventLog(journal, IDENTITY, StoreSchema(name="chat_history"))

    assert (audit.public_key, audit.private_key) == (again.public_key, again.private_key)
    assert audit.public_key != chat.public_key
    assert audit.private_key != chat.private_key
    assert audit.private_key.hex() not in repr(audit)
    assert repr(audit.private_key) not in repr(audit)


async def test_opening_twice_is_refused() -> None:
    """A journal has one log per store."""
    async with MemoryJournal() as journal:
        log = EventLog(journal, IDENTITY, StoreSchema(name="audit_log"))
        await log.open()
        with pytest.raises(StateError):
            await log.open()
