"""
What is known of a session beside its times: its title, the directory and branch it was held in.

A fact has a place, and of two the one with the higher place stands, so it makes no difference in which order they come.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from agentlayers.journal.transaction import JournalTransaction
from agentlayers.key_value.keys import pack_key, prefix_end, unpack_text

__all__ = ["SESSION_FACTS", "SessionFact", "forget_facts", "note_facts", "session_facts"]

SESSION_FACTS: Final = ("title", "project", "branch")
"""Names of the facts: what a session is called, the directory it began in, the git branch it was on last."""

_STORE: Final = "session_index"
_LENGTH_BYTES: Final = 1


class SessionFact(NamedTuple):
    """
    One fact.

    Attributes:
        text: What it says.
        place: The higher one stands; at most 255 bytes, not empty.
    """

    text: str
    place: bytes


def note_facts(tx: JournalTransaction, session_id: str, facts: Mapping[str, SessionFact]) -> None:
    """Note facts of a session by name, where they stand against those noted before."""
    for name, fact in facts.items():
        key = pack_key(_STORE, "f", session_id, name)
        before = tx.get(key)
        if before is None or _place(before) < fact.place:
            text = fact.text.encode(errors="replace")
            tx.put(key, len(fact.place).to_bytes(_LENGTH_BYTES) + fact.place + text)


def session_facts(tx: JournalTransaction, session_id: str) -> dict[str, str]:
    """Return what is known of a session, by name."""
    start = pack_key(_STORE, "f", session_id)
    rows = tx.scan(start, prefix_end(start))
    found = {unpack_text(key[len(start) :]): value[_LENGTH_BYTES + value[0] :].decode() for key, value in rows}
    return {name: found[name] for name in SESSION_FACTS if name in found}


def forget_facts(tx: JournalTransaction, session_id: str) -> None:
    """Forget all facts of a session."""
    start = pack_key(_STORE, "f", session_id)
    for key, _value in list(tx.scan(start, prefix_end(start))):
        tx.delete(key)


def _place(value: bytes) -> bytes:
    return value[_LENGTH_BYTES : _LENGTH_BYTES + value[0]]
