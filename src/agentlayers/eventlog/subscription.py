"""
Follow what is shown of a key, or the result of any read, as entries are committed.

A subscriber gets the present state at once and the newest one after every change; what comes and goes while it is busy
may be left out. So it costs no memory to be slow. What retention drops shows with the next commit of the store, since
dropping adds no entry.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from agentlayers.journal.competing import are_competing
from agentlayers.journal.conflict_policy import Version
from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.transaction import JournalTransaction

__all__ = ["KeyView", "key_view", "key_views", "reread", "watched"]

T = TypeVar("T")

_NOTHING: Final = object()


@dataclass(frozen=True, slots=True)
class KeyView:
    """
    What a replica shows of one key.

    Attributes:
        primary_key: The key.
        value: What the store's conflict policy shows; :obj:`None` if the key is deleted or was never written, or if
            the policy failed.
        winner: The version shown; :obj:`None` when the value was merged from several.
        heads: The versions nothing supersedes, by entry id.
        outcome: What the policy did; ``nothing`` without heads, ``failed`` if it raised.
        reason: Why the other versions were rejected, or what the policy raised.
        is_conflict: Versions that were written without knowledge of each other say different things.
    """

    primary_key: str
    value: Mapping[str, Any] | None = None
    winner: Version | None = None
    heads: tuple[Version, ...] = ()
    outcome: Literal["accept", "merge", "reject", "nothing", "failed"] = "nothing"
    reason: str = ""
    is_conflict: bool = False


def key_view(tx: JournalTransaction, store: str, primary_key: str) -> KeyView:
    """Return what is shown of a key of a store's keyed events."""
    heads = tuple(tx.heads(store, primary_key))
    if not heads:
        return KeyView(primary_key)
    schema = tx.registry.schema(store)
    is_conflict = are_competing(schema, heads)
    try:
        resolution = schema.policy.resolve(heads)
    except Exception as error:  # noqa: BLE001  # a user's policy: its fault is shown, and ends no subscription
        reason = f"{type(error).__name__}: {error}"
        return KeyView(primary_key, None, None, heads, "failed", reason, is_conflict)
    winner = next((head for head in heads if head.id == resolution.winner), None)
    return KeyView(primary_key, resolution.value, winner, heads, resolution.outcome, resolution.reason, is_conflict)


async def key_views(journal: EventJournal, store: str, primary_keys: Sequence[str]) -> AsyncGenerator[KeyView]:
    """Yield what is shown of each key, and again whenever it changes; ends when the journal is closed."""
    shown: dict[str, tuple[bytes, ...]] = {}

    def changed(tx: JournalTransaction) -> list[KeyView]:
        number = tx.store_number(store)
        found = []
        for key in primary_keys:
            state = tx.key_state(number, key)
            heads = () if state is None else tuple(head.id for head in state.heads)
            if shown.get(key) != heads:
                found.append(key_view(tx, store, key))
        return found

    async with aclosing(journal.commits(store)) as commits:
        async for _last in commits:
            for view in await journal.read(changed):
                shown[view.primary_key] = tuple(head.id for head in view.heads)
                yield view


async def watched(
    journal: EventJournal, read: Callable[[JournalTransaction], T], *, store: str | None = None
) -> AsyncGenerator[T]:
    """
    Yield what ``read`` returns, and again whenever a commit made it another; ends when the journal is closed.

    Args:
        journal: An open journal.
        read: Runs on a consistent snapshot and must not write; its results are compared with ``==``.
        store: Only commits with entries of this store can change it; all if not given.
    """
    async with aclosing(reread(journal, lambda: journal.read(read), store=store)) as results:
        async for found in results:
            yield found


async def reread(
    journal: EventJournal, read: Callable[[], Awaitable[T]], *, store: str | None = None
) -> AsyncGenerator[T]:
    """Yield what an async ``read`` returns, and again whenever a commit made it another; see :func:`watched`."""
    last: object = _NOTHING
    async with aclosing(journal.commits(store)) as commits:
        async for _position in commits:
            found = await read()
            if last is _NOTHING or found != last:
                last = found
                yield found
