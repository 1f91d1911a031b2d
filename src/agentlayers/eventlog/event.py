"""
Declare events: a tag with a primary-key function, and groups of them that are handled together.

From these declarations a journal's :class:`~agentlayers.journal.event_journal.StoreSchema` is made.
They are plain values and do nothing by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from agentlayers.errors import UnknownEventError, UsageError
from agentlayers.journal.conflict_policy import ConflictPolicy, LastWriteWins
from agentlayers.journal.entry import Entry
from agentlayers.journal.event_journal import Projection, StoreSchema

__all__ = ["Event", "EventGroup", "EventKind"]


class EventKind(StrEnum):
    """What an entry of an event says."""

    RECORD = "record"
    """Something happened, or a thing has this value now."""
    DELETION = "deletion"
    """The thing of this key is gone (keyed groups only)."""
    OBSERVATION = "observation"
    """Something this replica alone noticed: never sent to a remote, not part of a digest."""


@dataclass(frozen=True, slots=True)
class Event:
    """
    One kind of entry.

    Attributes:
        tag: Name on the wire, such as ``chat_event``.
        primary_key: What an entry is about, computed from its payload.
        kind: What an entry of it says.
    """

    tag: str
    primary_key: Callable[[Mapping[str, Any]], str]
    kind: EventKind = EventKind.RECORD


@dataclass(frozen=True, slots=True)
class EventGroup:
    """
    Events handled together; make one with :meth:`append_only` or :meth:`keyed`.

    Attributes:
        events: The members, in the order declared.
        is_keyed: Entries of one key are versions of one thing; otherwise every entry is kept and
            nothing conflicts.
    """

    events: tuple[Event, ...]
    is_keyed: bool

    def __post_init__(self) -> None:
        tags = [event.tag for event in self.events]
        if len(set(tags)) != len(tags):
            raise UsageError(f"an event group declares a tag twice: {', '.join(sorted(tags))}")
        if not self.is_keyed and any(event.kind is EventKind.DELETION for event in self.events):
            raise UsageError("an append-only group keeps every entry: it can declare no deletion")

    @classmethod
    def append_only(cls, *events: Event) -> Self:
        """
        Group events whose entries are all kept.

        Raises:
            UsageError: A tag twice, or a deletion.
        """
        return cls(events, is_keyed=False)

    @classmethod
    def keyed(cls, *events: Event) -> Self:
        """
        Group events whose entries of one primary key are versions of one thing.

        Raises:
            UsageError: A tag twice.
        """
        return cls(events, is_keyed=True)

    def event(self, tag: str) -> Event:
        """
        Return the member with this tag.

        Raises:
            UnknownEventError: There is none.
        """
        for event in self.events:
            if event.tag == tag:
                return event
        known = tuple(event.tag for event in self.events)
        raise UnknownEventError(event=tag, store="this group", known=known)

    @staticmethod
    def schema(
        name: str,
        *groups: EventGroup,
        project: Projection | None = None,
        retract: Callable[[Any, Entry], None] | None = None,
        scope_of: Callable[[Entry], str] | None = None,
        policy: ConflictPolicy | None = None,
    ) -> StoreSchema:
        """
        Make what a journal must know of a store from the groups whose entries it keeps.

        Args:
            name: The store.
            groups: All its groups; no tag may occur in two of them.
            project: Brings the read model up to date.
            retract: Takes a compacted entry out of the read model.
            scope_of: Retention scope of an entry; one scope if not given.
            policy: Chooses among several heads; last write wins if not given.

        Raises:
            UsageError: Two groups declare the same tag.
        """
        tags = [event.tag for group in groups for event in group.events]
        if len(set(tags)) != len(tags):
            raise UsageError(f"two event groups of store {name!r} declare the same tag")
        keyed = [event for group in groups if group.is_keyed for event in group.events]
        every = [event for group in groups for event in group.events]
        given = {"project": project, "scope_of": scope_of}
        return StoreSchema(
            name=name,
            keyed_events=frozenset(e.tag for e in keyed if e.kind is not EventKind.OBSERVATION),
            deletions=frozenset(e.tag for e in keyed if e.kind is EventKind.DELETION),
            unsynced_events=frozenset(e.tag for e in every if e.kind is EventKind.OBSERVATION),
            events=frozenset(tags),
            retract=retract,
            policy=policy or LastWriteWins(),
            **{field: value for field, value in given.items() if value is not None},  # type: ignore[arg-type]
        )
