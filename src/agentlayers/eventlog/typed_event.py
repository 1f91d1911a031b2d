"""
Declare events whose payloads are values of a type: a dataclass, a pydantic model or a ``TypedDict``.

A payload that another release wrote may have fields this one does not know, or lack some it has. The entry is kept
and handed on as it is either way; what the type cannot hold is left out of the value only, and what it requires and
does not find makes the entry *unapplied*, until a release that can read it.

Where fields change their meaning, the event gets the next version: payloads of earlier ones are brought up to it step
by step when they are read, and those of later ones are entries that this release does not understand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from agentlayers.errors import MalformedMessageError, UsageError
from agentlayers.eventlog.event import Event, EventKind
from agentlayers.journal.causality import CAUSAL_KEY
from agentlayers.journal.conflict_policy import Version
from agentlayers.journal.entry import Entry
from agentlayers.journal.event_journal import Projection
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.protocol.payload import decode_payload

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

__all__ = ["VERSION_KEY", "Handler", "TypedEntry", "TypedEvent", "Upgrade", "entry_value", "projection_of"]

T = TypeVar("T")

VERSION_KEY: Final = "_version"
"""Field of a payload that tells its version; absent means 1."""

Upgrade = Callable[[dict[str, Any]], Mapping[str, Any]]
"""Makes a payload of the next version from one of its own."""


@dataclass(frozen=True, slots=True)
class TypedEntry(Generic[T]):
    """
    An entry as a value.

    Attributes:
        value: Its payload.
        entry: The entry itself.
        position: Its place in local arrival order; 0 in a projection, where it is not told.
        heads: In a projection of a keyed event, the versions of its key that nothing supersedes.
        is_local: Written by this replica and not received; always true in a projection, where it is not told.
    """

    value: T
    entry: Entry
    position: int = 0
    heads: Sequence[Version] = ()
    is_local: bool = True


Handler = Callable[[JournalTransaction, TypedEntry[Any]], None]
"""Brings a read model up to date with one entry, under the rules of a projection."""


class TypedEvent(Event, Generic[T]):
    """
    One kind of entry, with the type of its payload.

    Args:
        tag: Name on the wire.
        payload_type: A dataclass, a pydantic model or a ``TypedDict`` (on Python 3.11 that of
            ``typing_extensions``).
        key: What an entry is about, from its value.
        kind: What an entry of it says.
        upgrades: By version, what makes a payload of the next version from one of that version. The version written
            is the one after the highest; without upgrades it is 1.

    Attributes:
        payload_type: As given.
        version: The version written, and the highest one read.

    Raises:
        UsageError: A type that cannot be a payload's, or upgrades with a gap.
    """

    __slots__ = ("_adapter", "_upgrades", "payload_type", "version")

    payload_type: type[T]
    version: int
    _adapter: TypeAdapter[T]
    _upgrades: Mapping[int, Upgrade]

    def __init__(
        self,
        tag: str,
        payload_type: type[T],
        key: Callable[[T], str],
        kind: EventKind = EventKind.RECORD,
        *,
        upgrades: Mapping[int, Upgrade] = MappingProxyType({}),
    ) -> None:
        super().__init__(tag, lambda payload: key(self.decode(payload)), kind)
        if sorted(upgrades) != list(range(1, len(upgrades) + 1)):
            raise UsageError(
                f"upgrades of {tag!r} are for versions {sorted(upgrades)}; expected 1, 2, ... without a gap"
            )
        # The class is frozen, as events are.
        object.__setattr__(self, "payload_type", payload_type)
        object.__setattr__(self, "version", len(upgrades) + 1)
        object.__setattr__(self, "_adapter", _adapter_of(tag, payload_type))
        object.__setattr__(self, "_upgrades", dict(upgrades))

    def encode(self, value: T) -> dict[str, Any]:
        """
        Return the payload of a value.

        Raises:
            UsageError: It is no value of the type.
        """
        is_one = (
            isinstance(value, Mapping) if _is_typed_dict(self.payload_type) else isinstance(value, self.payload_type)
        )
        payload = self._adapter.dump_python(value, warnings=False) if is_one else None
        if not isinstance(payload, dict):
            raise UsageError(f"payload of {self.tag!r}: {type(value).__name__} is no {_name(self)}")
        if self.version > 1:
            payload[VERSION_KEY] = self.version
        try:
            # The fields of a value are not checked when it is made, and what cannot be read must not be written.
            self.decode(payload)
        except MalformedMessageError as error:
            raise UsageError(str(error)) from error
        return payload

    def decode(self, payload: Mapping[str, Any]) -> T:
        """
        Return the value of a payload, whoever wrote it; fields that the type does not have are left out.

        Raises:
            MalformedMessageError: It lacks a field, has one of another type, or is of a version that is not known.
        """
        from pydantic import ValidationError

        fields = self._upgraded({name: value for name, value in payload.items() if name != CAUSAL_KEY})
        try:
            value: T = self._adapter.validate_python(fields)
        except ValidationError as error:
            raise MalformedMessageError(f"payload of {self.tag!r} is no {_name(self)}: {_first(error)}") from error
        return value

    def _upgraded(self, fields: dict[str, Any]) -> Mapping[str, Any]:
        version = fields.pop(VERSION_KEY, 1)
        if type(version) is not int or version < 1:
            raise MalformedMessageError(
                f"payload of {self.tag!r} has version {version!r}; expected 1 to {self.version}"
            )
        if version > self.version:
            reads = f"this one reads up to {self.version}"
            raise MalformedMessageError(f"payload of {self.tag!r} is of version {version}, by a newer release; {reads}")
        for known in range(version, self.version):
            try:
                fields = dict(self._upgrades[known](fields))
            except Exception as error:  # whatever an upgrade raises over a payload that is not what it expects
                reason = f"cannot be brought from version {known} to {known + 1} ({type(error).__name__})"
                raise MalformedMessageError(f"payload of {self.tag!r} {reason}") from error
        return fields

    def read(self, entry: Entry, *, position: int = 0, heads: Sequence[Version] = ()) -> TypedEntry[T]:
        """
        Return an entry of this event as a value.

        Raises:
            MalformedMessageError: As :meth:`decode`.
        """
        return TypedEntry(self.decode(decode_payload(entry.payload)), entry, position, heads)


def entry_value(event: Event | None, entry: Entry) -> Any:
    """
    Return an entry's value: that of the typed event, or else the payload as a map.

    Raises:
        MalformedMessageError: It is no value of the event's type, or no map.
    """
    payload = decode_payload(entry.payload)
    if isinstance(event, TypedEvent):
        return event.decode(payload)
    payload.pop(CAUSAL_KEY, None)
    return payload


def projection_of(handlers: Mapping[TypedEvent[Any], Handler]) -> Projection:
    """
    Make the projection of a store from one handler for each event.

    Entries of other events are kept and handed on, and change no read model.

    Raises:
        UsageError: Two events of one tag.
    """
    by_tag = {event.tag: (event, handler) for event, handler in handlers.items()}
    if len(by_tag) != len(handlers):
        raise UsageError(f"two handlers for one tag: {', '.join(sorted(event.tag for event in handlers))}")

    def project(tx: JournalTransaction, entry: Entry, heads: Sequence[Version]) -> None:
        known = by_tag.get(entry.event)
        if known is not None:
            event, handler = known
            handler(tx, event.read(entry, heads=heads))

    return project


def _adapter_of(tag: str, payload_type: type[T]) -> TypeAdapter[T]:
    # Imported here, because a program without typed events needs no pydantic.
    from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter

    try:
        adapter = TypeAdapter(payload_type)
        shape = adapter.core_schema.get("type", "")
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise UsageError(f"payload type of {tag!r}: {error}") from error
    if shape in {"definitions", "dataclass", "model", "typed-dict"}:
        return adapter
    expected = "a dataclass, a pydantic model or a TypedDict"
    raise UsageError(f"payload type of {tag!r}: {payload_type!r} cannot be used; expected {expected}")


def _name(event: TypedEvent[Any]) -> str:
    return getattr(event.payload_type, "__name__", repr(event.payload_type))


def _is_typed_dict(payload_type: type[Any]) -> bool:
    return issubclass(payload_type, dict) and hasattr(payload_type, "__total__")


def _first(error: ValidationError) -> str:
    # Without the value itself: a payload may be a secret.
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'value'}: {first['msg']}"
