"""
The fields of one received message, read without building anything a peer could blow up.

Known fields that hold scalars are unpacked; unknown ones are skipped. Lists are read item by item
after their announced length was checked. A list or map where neither belongs becomes
:data:`NOTHING` while it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final, final

import msgpack

from agentlayers.errors import LimitExceededError, MalformedMessageError
from agentlayers.limits import (
    CAPABILITIES_MAX,
    ENTRIES_PER_MESSAGE_MAX,
    FIELDS_PER_MESSAGE_MAX,
    SUBSCRIPTIONS_PER_CONNECTION_MAX,
)
from agentlayers.protocol.messages import RemoteEncryptedEntry
from agentlayers.protocol.payload import UNDEFINED
from agentlayers.protocol.record_form import expand_records
from agentlayers.protocol.wire_form import INTEGER_MAX

__all__ = ["Fields", "read_fields"]


@final
class Nothing:
    """The type of :data:`NOTHING`."""

    __slots__ = ()


NOTHING: Final = Nothing()
"""A list, map or extension that was dropped, because none belongs in its place."""

_NAMES: Final = {
    dict: "a map",
    list: "a list",
    RemoteEncryptedEntry: "a map",
    Nothing: "a list or an extension",
    type(UNDEFINED): "undefined",
    str: "text",
    bytes: "bytes",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    type(None): "nil",
}
_new_entry: Final = tuple.__new__


@final
class Fields:
    """
    Typed access to the fields of one message; every miss is a :class:`MalformedMessageError` with
    the field's name.

    Attributes:
        tag: The message's name, the value of ``_tag``.
    """

    __slots__ = ("_values", "tag")

    def __init__(self, tag: str, values: Mapping[str, Any]) -> None:
        self.tag = tag
        self._values = values

    def value(self, name: str) -> Any:
        """Return a field that must be there."""
        try:
            return self._values[name]
        except KeyError:
            raise MalformedMessageError(f"{self.tag}.{name}: missing") from None

    def text(self, name: str, *, bytes_max: int, bytes_min: int = 0) -> str:
        """Return text of a bounded length in UTF-8."""
        value = self.value(name)
        if type(value) is not str:
            raise self.wrong(name, "text", value)
        if not bytes_min <= len(value) <= bytes_max or len(value.encode()) > bytes_max:
            raise MalformedMessageError(f"{self.tag}.{name}: expected {bytes_min} to {bytes_max} bytes of text")
        return value

    def data(self, name: str, *, size: int | None = None) -> bytes:
        """Return bytes, of exactly ``size`` if one is given."""
        value = self.value(name)
        if type(value) is not bytes:
            raise self.wrong(name, "bytes", value)
        if size is not None and len(value) != size:
            raise MalformedMessageError(f"{self.tag}.{name}: expected {size} bytes, got {len(value)}")
        return value

    def number(self, name: str) -> int:
        """Return an integer from 0 to 2**53, however it was written."""
        return self.integer(name, self.value(name))

    def optional_number(self, name: str) -> int | None:
        """Return the same, or None if the field is absent."""
        return self.number(name) if name in self._values else None

    def integer(self, name: str, value: Any) -> int:
        """Check one number of a field."""
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int:
            raise self.wrong(name, "an integer", value)
        if not 0 <= value <= INTEGER_MAX:
            raise MalformedMessageError(f"{self.tag}.{name}: {value} is outside 0..2**53")
        return value

    def listed(self, name: str) -> list[Any]:
        """Return a list."""
        value = self.value(name)
        if type(value) is not list:
            raise self.wrong(name, "a list", value)
        return value

    def optional_list(self, name: str) -> list[Any] | None:
        """Return a list, or None if the field is absent."""
        return self.listed(name) if name in self._values else None

    def nested(self, name: str) -> Fields | None:
        """Return the fields of a map, or None if the field is absent."""
        if name not in self._values:
            return None
        value = self._values[name]
        if type(value) is not dict:
            raise self.wrong(name, "a map", value)
        return Fields(f"{self.tag}.{name}", value)

    def pairs(self, name: str) -> list[tuple[Any, Any]] | None:
        """Return the keys and values of a map, or None if the field is absent."""
        return self._values.get(name)

    def wrong(self, name: str, expected: str, value: Any) -> MalformedMessageError:
        """Make the error for a value of a wrong type; it never shows the value."""
        actual = _NAMES.get(type(value), type(value).__name__)
        return MalformedMessageError(f"{self.tag}.{name}: expected {expected}, got {actual}")


def read_fields(data: bytes) -> Fields:
    """
    Take one message apart.

    Raises:
        MalformedMessageError: Not one MessagePack map from the first byte to the last, or without a
            ``_tag``.
        LimitExceededError: More fields or items than a message may have.
    """
    try:
        values = _read_values(data)
    except MalformedMessageError:
        if (expanded := expand_records(data)) is None:
            raise
        values = _read_values(expanded)
    tag = values.get("_tag")
    if type(tag) is not str:
        raise MalformedMessageError(f"_tag: expected text, got {_NAMES.get(type(tag), type(tag).__name__)}")
    return Fields(tag, values)


def _read_values(data: bytes) -> dict[str, Any]:
    unpacker = msgpack.Unpacker(
        None,
        max_buffer_size=max(len(data), 1),
        object_hook=_entry_parts,
        list_hook=_drop,
        ext_hook=_extension,
        max_array_len=FIELDS_PER_MESSAGE_MAX,
        max_map_len=FIELDS_PER_MESSAGE_MAX,
    )
    unpacker.feed(data)
    try:
        values = _read_map(unpacker, _READERS)
        consumed = unpacker.tell()
    except msgpack.OutOfData:
        raise MalformedMessageError("the message is cut short") from None
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise MalformedMessageError(f"the message is not one MessagePack map ({error})") from None
    if consumed != len(data):
        raise MalformedMessageError(f"{len(data) - consumed} bytes stand behind the message")
    return values


def _read_map(unpacker: msgpack.Unpacker, readers: Mapping[str, Callable[[msgpack.Unpacker], Any]]) -> dict[str, Any]:
    """Read a map's known keys and skip the others; a key whose value is undefined is absent."""
    count = unpacker.read_map_header()
    if count > FIELDS_PER_MESSAGE_MAX:
        raise LimitExceededError(limit="FIELDS_PER_MESSAGE_MAX", allowed=FIELDS_PER_MESSAGE_MAX, declared=count)
    values: dict[str, Any] = {}
    for _ in range(count):
        key = unpacker.unpack()
        if type(key) is not str:
            raise MalformedMessageError(f"a key of the message is {_NAMES.get(type(key), 'no text')}, not text")
        reader = readers.get(key)
        if reader is None:
            unpacker.skip()
        elif (value := reader(unpacker)) is not UNDEFINED:
            values[key] = value
    return values


def _read_items(unpacker: msgpack.Unpacker) -> list[Any]:
    """Read a list whose announced length is checked before anything is kept in proportion to it."""
    count = unpacker.read_array_header()
    if count > ENTRIES_PER_MESSAGE_MAX:
        raise LimitExceededError(limit="ENTRIES_PER_MESSAGE_MAX", allowed=ENTRIES_PER_MESSAGE_MAX, declared=count)
    items = list(islice(unpacker, count))
    if len(items) != count:
        raise msgpack.OutOfData
    return items


def _read_names(unpacker: msgpack.Unpacker) -> list[Any]:
    count = unpacker.read_array_header()
    if count > CAPABILITIES_MAX:
        raise LimitExceededError(limit="CAPABILITIES_MAX", allowed=CAPABILITIES_MAX, declared=count)
    return [unpacker.unpack() for _ in range(count)]


def _read_extensions(unpacker: msgpack.Unpacker) -> dict[str, Any]:
    return _read_map(unpacker, _EXTENSION_READERS)


def _read_pairs(unpacker: msgpack.Unpacker, read: Callable[[msgpack.Unpacker], Any]) -> list[tuple[Any, Any]]:
    """Read a map with one key for each public key of a connection."""
    count, allowed = unpacker.read_map_header(), SUBSCRIPTIONS_PER_CONNECTION_MAX
    if count > allowed:
        raise LimitExceededError(limit="SUBSCRIPTIONS_PER_CONNECTION_MAX", allowed=allowed, declared=count)
    return [(unpacker.unpack(), read(unpacker)) for _ in range(count)]


def _read_cursors(unpacker: msgpack.Unpacker) -> list[tuple[Any, Any]]:
    return _read_pairs(unpacker, _read_value)


def _read_digests(unpacker: msgpack.Unpacker) -> list[tuple[Any, Any]]:
    return _read_pairs(unpacker, _read_head_digest)


def _read_head_digest(unpacker: msgpack.Unpacker) -> list[Any]:
    count = unpacker.read_array_header()
    if not 1 <= count <= 2:
        raise MalformedMessageError(f"a digest of the message has {count} items, not [head] or [head, digest]")
    return [unpacker.unpack() for _ in range(count)]


def _read_window(unpacker: msgpack.Unpacker) -> list[Any]:
    count = unpacker.read_array_header()
    if count != 2:
        raise MalformedMessageError(f"a write window of the message has {count} items, not [messages, bytes]")
    return [unpacker.unpack(), unpacker.unpack()]


def _read_value(unpacker: msgpack.Unpacker) -> Any:
    return unpacker.unpack()


def _entry_parts(fields: dict[str, Any]) -> RemoteEncryptedEntry:
    """Keep the four fields an entry may have, of any map: unchecked, and as small as a tuple."""
    take = fields.get
    return _new_entry(
        RemoteEncryptedEntry,
        (take("sequence"), take("iv"), take("entryId"), take("encryptedEntry")),
    )


def _drop(items: list[Any]) -> Nothing:
    del items
    return NOTHING


def _extension(code: int, data: bytes) -> Any:
    return UNDEFINED if code == 0 and data == b"\x00" else NOTHING


_EXTENSION_READERS: Final[dict[str, Callable[[msgpack.Unpacker], Any]]] = {
    "version": _read_value,
    "capabilities": _read_names,
    "incarnation": _read_value,
    "tenant": _read_value,
    "writeWindow": _read_window,
}
_READERS: Final[dict[str, Callable[[msgpack.Unpacker], Any]]] = {
    **dict.fromkeys(
        (
            "_tag",
            "id",
            "publicKey",
            "startSequence",
            "iv",
            "through",
            "remoteId",
            "data",
            "tenant",
            "token",
            "code",
            "credit",
            "amount",
            "answered",
        ),
        _read_value,
    ),
    "encryptedEntries": _read_items,
    "entries": _read_items,
    "entryIds": _read_items,
    "sequenceNumbers": _read_items,
    "part": _read_items,
    "agentlayers": _read_extensions,
    "cursors": _read_cursors,
    "digests": _read_digests,
}
